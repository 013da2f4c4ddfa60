"""Batches from shards: shuffled and augmented for training, in order and at native resolution for evaluation.

Everything random is a function of (seed, epoch, sample), so the batches are the same whatever the number of workers,
and over all ranks together the same whatever the number of ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import TypeVar, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segmodels.data.augment import Augment
from segmodels.data.shards import ShardReader
from segmodels.errors import InputError

T = TypeVar("T")

PREFETCH = 3
"""Batches that are made ahead of their use."""


def training_loader(
    reader: ShardReader,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    image_labels: bool = False,
) -> TrainingLoader:
    """Endlessly reusable iterable over the batches of one epoch: see ``TrainingLoader``.

    Args:
        batch_size: samples per batch and rank.
        workers: processes; 0 loads in one thread of this process.
        image_labels: the classes of the whole images are the third tensor of each batch.

    Raises:
        InputError: images of different sizes without a crop, or fewer samples than ranks.
    """
    if augment.crop is None and (reader.sizes != reader.sizes[0]).any():
        low, high = reader.sizes.min(axis=0), reader.sizes.max(axis=0)
        raise InputError(
            f"split {reader.split!r} has images from {low[1]}x{low[0]} to {high[1]}x{high[0]} pixels and no crop, "
            "expected images of one size: set train.augment.crop"
        )
    if len(reader) < world_size:
        raise InputError(
            f"split {reader.split!r} has {len(reader)} samples for {world_size} processes, expected at least one each:"
            " start fewer processes"
        )
    red, green, blue = (round(value) for value in reader.statistics.mean)
    return TrainingLoader(
        reader, replace(augment, fill=(red, green, blue)), batch_size, seed, workers, rank, world_size, image_labels
    )


class TrainingLoader:
    """Batches ``(images, masks)`` of the training samples in an order of the epoch's own.

    Images are uint8 ``(B, 3, H, W)`` in channels_last memory, masks ``(B, H, W)`` in the shards' type (uint8, or int16
    above 255 classes). With image labels, batches are ``(images, masks, image_labels)``, the last int64 ``(B,)``.
    Of each global batch of ``batch_size * world_size`` samples the rank takes every ``world_size``-th. The last,
    incomplete batch of an epoch is left out, unless it is the only one.
    """

    def __init__(
        self,
        reader: ShardReader,
        augment: Augment,
        batch_size: int,
        seed: int,
        workers: int,
        rank: int,
        world_size: int,
        image_labels: bool,
    ) -> None:
        self._reader = reader
        self._augment = augment
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers
        self._rank = rank
        self._world_size = world_size
        self._image_labels = image_labels
        self._epoch = 0
        self._start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the order and the draws of the next iterations, which begin with batch ``start_batch``."""
        self._epoch, self._start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return max(1, len(self._reader) // (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        samples = _AugmentedBatches(self._reader, self._augment, self._seed, self._epoch, self._image_labels)
        batches = self._indices()[self._start_batch :]
        if self._workers == 0:
            return prefetch(map(samples.make, batches))
        return map(
            _made,
            DataLoader(
                samples, batch_size=None, sampler=batches, num_workers=self._workers, worker_init_fn=_single_thread
            ),
        )

    def _indices(self) -> list[np.ndarray]:
        """The samples of each batch of this rank."""
        order = np.random.default_rng((self._seed, self._epoch, 0)).permutation(len(self._reader))
        step = self._batch_size * self._world_size
        return [order[batch * step : (batch + 1) * step][self._rank :: self._world_size] for batch in range(len(self))]


class _AugmentedBatches(Dataset[tuple[Tensor, ...] | InputError]):
    """The batch of any samples in one epoch; sent to worker processes."""

    def __init__(self, reader: ShardReader, augment: Augment, seed: int, epoch: int, image_labels: bool) -> None:
        self._reader = reader
        self._augment = augment
        self._seed = seed
        self._epoch = epoch
        self._image_labels = image_labels

    def __getitem__(self, indices: np.ndarray) -> tuple[Tensor, ...] | InputError:
        try:
            return self.make(indices)
        except (
            InputError
        ) as error:  # handed over as a value, because DataLoader would bury its sentence in a worker's traceback
            return error

    def make(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        pairs = [self._sample(int(index)) for index in indices]
        batch = _channels_last([image for image, _ in pairs]), torch.from_numpy(np.stack([mask for _, mask in pairs]))
        return (*batch, torch.from_numpy(self._reader.image_labels[indices])) if self._image_labels else batch

    def _sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self._seed, self._epoch, 1 + index))
        return self._augment(self._reader.image(index), self._reader.mask(index), rng)


def _made(batch: tuple[Tensor, ...] | InputError) -> tuple[Tensor, ...]:
    if isinstance(batch, InputError):
        raise batch
    return batch


class EvaluationLoader:
    """Batches ``(images, masks, indices)`` of all samples in order.

    Images are uint8 ``(B, 3, H, W)`` in channels_last memory; ``masks`` is a list of B tensors ``(h, w)`` at the masks'
    own resolution; ``indices`` are the samples' numbers in the reader. A batch holds up to ``batch_size`` consecutive
    images of one size. Memory maps are released after each batch, so that memory does not grow with the dataset.
    """

    def __init__(self, reader: ShardReader, batch_size: int, rank: int, world_size: int) -> None:
        self._reader = reader
        self._batches: list[list[int]] = []
        for index in range(rank, len(reader), world_size):
            last = self._batches[-1] if self._batches else []
            if 0 < len(last) < batch_size and (reader.sizes[last[0]] == reader.sizes[index]).all():
                last.append(index)
            else:
                self._batches.append([index])

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Tensor], list[int]]]:
        return prefetch(map(self._read, self._batches))

    def _read(self, indices: list[int]) -> tuple[Tensor, list[Tensor], list[int]]:
        images = _channels_last([self._reader.image(index) for index in indices])
        masks = [torch.from_numpy(self._reader.mask(index).copy()) for index in indices]
        self._reader.release()
        return images, masks, indices


def evaluation_loader(reader: ShardReader, *, batch_size: int, rank: int = 0, world_size: int = 1) -> EvaluationLoader:
    """Iterable over every sample once: see ``EvaluationLoader``. A rank takes every ``world_size``-th sample."""
    return EvaluationLoader(reader, batch_size, rank, world_size)


def prefetch(items: Iterable[T], depth: int = PREFETCH) -> Iterator[T]:
    """The same items, made up to ``depth`` ahead in a thread.

    An exception while making an item is raised where the item was due. The thread ends with the items, or when the
    iterator is dropped.
    """
    ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    free = threading.Semaphore(depth)
    dropped = threading.Event()

    def fill() -> None:
        source = iter(items)
        while free.acquire() and not dropped.is_set():
            try:
                ready.put((next(source), None))
            except BaseException as error:
                ready.put((None, error))
                return

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            free.release()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(T, item)
    finally:
        dropped.set()
        free.release()
        if thread is not threading.current_thread():  # where the garbage collector may drop the iterator
            thread.join()


def _channels_last(images: Sequence[np.ndarray]) -> Tensor:
    """Stack of images ``(H, W, 3)`` as a tensor ``(B, 3, H, W)``."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _single_thread(_worker: int) -> None:
    """OpenCV's threads do not survive a fork, and the workers share the cores already."""
    cv2.setNumThreads(0)

"""Batches from shards: shuffled and augmented for training, in order and at native resolution for evaluation.

Everything random is a function of (seed, epoch, sample), so the batches are the same whatever the number of workers,
and over all ranks together the same whatever the number of ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from segmodels.annotations import Annotation
from segmodels.data.augment import Augment, Outside
from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.data.shards import ShardReader
from segmodels.data.worker_batches import worker_batches
from segmodels.errors import InputError

T = TypeVar("T")

PREFETCH = 3
"""Batches that are made ahead of their use."""


class MakesTargets(Protocol):
    """A task, as far as the loader knows it.

    Attributes:
        reads_objects: whether ``targets`` looks at layers and segments; without, they are not unpacked.
    """

    @property
    def reads_objects(self) -> bool: ...

    def targets(self, annotations: Sequence[Annotation]) -> Any:
        """What a batch is trained on: a pytree of tensors."""
        ...


def training_loader(
    reader: ShardReader,
    augment: Augment,
    task: MakesTargets,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin: bool = False,
) -> TrainingLoader:
    """Endlessly reusable iterable over the batches of one epoch: see ``TrainingLoader``.

    Args:
        batch_size: samples per batch and rank.
        workers: processes; 0 loads in one thread of this process. A script that asks for processes must guard its
            work by ``if __name__ == "__main__"``, because each of them imports it.
        pin: give batches in pinned memory, from which a GPU copies without making the host wait.

    Raises:
        InputError: images of different sizes without a crop, an augmentation that the images cannot have, or fewer
            samples than ranks.
    """
    augment.check(reader.channels, reader.dtype, reader.spatial_dims)
    if augment.crop is None and (reader.sizes != reader.sizes[0]).any():
        low, high = (
            "x".join(map(str, reversed(size))) for size in (reader.sizes.min(axis=0), reader.sizes.max(axis=0))
        )
        raise InputError(
            f"split {reader.split!r} has images from {low} to {high} pixels and no crop, "
            "expected images of one size: set train.augment.crop"
        )
    if len(reader) < world_size:
        raise InputError(
            f"split {reader.split!r} has {len(reader)} samples for {world_size} processes, expected at least one each:"
            " start fewer processes"
        )
    samples = _AugmentedBatches(reader, augment, task, seed)
    return TrainingLoader(samples, len(reader), batch_size, seed, workers, rank, world_size, pin)


class TrainingLoader:
    """A ``Batch`` for each part of the training samples, in an order of the epoch's own.

    Images have the shards' type; those of two spatial axes are in channels_last memory. Of each global batch of
    ``batch_size * world_size`` samples the rank takes every ``world_size``-th. The last, incomplete batch of an epoch
    is left out, unless it is the only one.
    """

    def __init__(
        self,
        samples: _AugmentedBatches,
        length: int,
        batch_size: int,
        seed: int,
        workers: int,
        rank: int,
        world_size: int,
        pin: bool,
    ) -> None:
        self._samples = samples
        self._length = length
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers
        self._rank = rank
        self._world_size = world_size
        self._pin = pin
        self._epoch = 0
        self._start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the order and the draws of the next iterations, which begin with batch ``start_batch``."""
        self._epoch, self._start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return max(1, self._length // (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[Batch]:
        samples = self._samples.of_epoch(self._epoch)
        batches = self._indices()[self._start_batch :]
        made = worker_batches(samples.make, batches, self._workers) if self._workers else map(samples.make, batches)
        if self._pin:
            return prefetch(map(_pinned, made))
        return made if self._workers else prefetch(made)

    def _indices(self) -> list[np.ndarray]:
        """The samples of each batch of this rank."""
        order = np.random.default_rng((self._seed, self._epoch, 0)).permutation(self._length)
        step = self._batch_size * self._world_size
        return [order[batch * step : (batch + 1) * step][self._rank :: self._world_size] for batch in range(len(self))]


class _AugmentedBatches:
    """The batch of any samples in one epoch; sent to worker processes."""

    def __init__(self, reader: ShardReader, augment: Augment, task: MakesTargets, seed: int, epoch: int = 0) -> None:
        self._reader = reader
        self._augment = augment
        self._task = task
        self._seed = seed
        self._epoch = epoch
        self._outside = _outside(reader)

    def of_epoch(self, epoch: int) -> _AugmentedBatches:
        return _AugmentedBatches(self._reader, self._augment, self._task, self._seed, epoch)

    def make(self, indices: np.ndarray) -> Batch:
        images, annotations = zip(*[self._sample(int(index)) for index in indices], strict=True)
        return Batch(_channels_first(images), self._task.targets(annotations), torch.from_numpy(indices))

    def _sample(self, index: int) -> tuple[np.ndarray, Annotation]:
        rng = np.random.default_rng((self._seed, self._epoch, 1 + index))
        annotation = self._reader.annotation(index, objects=self._task.reads_objects)
        return self._augment(self._reader.image(index), annotation, rng, self._outside)


def _pinned(batch: Batch) -> Batch:
    return tree_map_only(Tensor, Tensor.pin_memory, batch)


def _outside(reader: ShardReader) -> Outside:
    """The mean colour and the ignored labels."""
    mean = tuple(reader.statistics.mean)
    if np.issubdtype(reader.dtype, np.integer):
        mean = tuple(float(round(value)) for value in mean)
    further = {name: labels.ignore_index for name, labels in reader.labels.further.items()}
    return Outside(mean, reader.labels.ignore_index, further)


class EvaluationLoader:
    """An ``EvaluationBatch`` of up to ``batch_size`` consecutive samples whose images have one size, for all samples in
    order.

    Images have the shards' type; those of two spatial axes are in channels_last memory. Memory maps are released after
    each batch, so that memory does not grow with the dataset.
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

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return prefetch(map(self._read, self._batches))

    def _read(self, indices: list[int]) -> EvaluationBatch:
        reader = self._reader
        images = _channels_first([reader.image(index) for index in indices])
        annotations = [_in_memory(reader.annotation(index)) for index in indices]
        ids = [reader.id(index) for index in indices]
        reader.release()
        return EvaluationBatch(images, annotations, ids, indices)


def evaluation_loader(reader: ShardReader, *, batch_size: int, rank: int = 0, world_size: int = 1) -> EvaluationLoader:
    """Iterable over every sample once: see ``EvaluationLoader``. A rank takes every ``world_size``-th sample."""
    return EvaluationLoader(reader, batch_size, rank, world_size)


def _in_memory(annotation: Annotation) -> Annotation:
    """The annotation without views into a memory map."""
    return replace(
        annotation,
        classes=annotation.classes.copy(),
        layers=annotation.layers.copy(),
        further={name: labels.copy() for name, labels in annotation.further.items()},
    )


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


def _channels_first(images: Sequence[np.ndarray]) -> Tensor:
    """Stack of images ``(*spatial, C)`` as a tensor ``(B, C, *spatial)``."""
    batch = torch.from_numpy(np.stack(images)).movedim(-1, 1)
    return batch if batch.ndim == 4 else batch.contiguous()  # models of volumes keep the order of the axes

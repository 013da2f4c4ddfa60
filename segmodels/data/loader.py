"""Batches from shards: shuffled and augmented for training, in order and at native resolution for evaluation.

Everything random is a function of (seed, epoch, sample), so the batches are the same whatever the number of workers,
and over all ranks together the same whatever the number of ranks.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from segmodels.annotations import Annotation
from segmodels.data.augment import Augment, Outside
from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.data.copy_paste import paste_objects
from segmodels.data.prefetching import prefetch
from segmodels.data.read_ahead import reading_ahead
from segmodels.data.shards import ShardReader
from segmodels.data.sizes import size_in_words
from segmodels.data.worker_batches import prepare_workers, worker_batches
from segmodels.errors import InputError


class MakesTargets(Protocol):
    """A task, as far as the loader knows it.

    Attributes:
        reads_objects: whether ``targets`` looks at layers and segments; without, they are not unpacked.
    """

    @property
    def reads_objects(self) -> bool: ...

    def targets(self, annotations: Sequence[Annotation]) -> Any:
        """The targets of a batch, a pytree of tensors."""
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
        workers: processes; 0 loads in one thread of this process, which on a GPU slows the training. A script that asks
            for processes must guard its work by ``if __name__ == "__main__"``, because each of them imports it.
        pin: give batches in pinned memory, from which a GPU copies without making the host wait.

    Raises:
        InputError: images of different sizes without a crop, an augmentation that the images cannot have, fewer
            samples than ranks, or a cache too small for the shards.
    """
    augment.check(reader.channels, reader.dtype, reader.spatial_dims)
    if augment.copy_paste and not reader.has_objects:
        raise InputError(
            f"train.augment.copy_paste is {augment.copy_paste:g} but split {reader.split!r} has no annotated objects,"
            " which it pastes: set it to 0"
        )
    if augment.crop is None and (reader.sizes != reader.sizes[0]).any():
        low, high = (size_in_words(size) for size in (reader.sizes.min(axis=0), reader.sizes.max(axis=0)))
        raise InputError(
            f"split {reader.split!r} has images from {low} to {high} pixels and no crop, "
            "expected images of one size: set train.augment.crop"
        )
    if len(reader) < world_size:
        raise InputError(
            f"split {reader.split!r} has {len(reader)} samples for {world_size} processes, expected at least one each:"
            " start fewer processes"
        )
    reader.check_window()
    samples = _AugmentedBatches(reader, augment, task, seed)
    if workers:
        prepare_workers(__name__, type(task).__module__)
    return TrainingLoader(samples, _Order(reader, batch_size, seed, rank, world_size), workers, pin)


class TrainingLoader:
    """A ``Batch`` for each part of the training samples, in an order of the epoch's own.

    Images have the shards' type; those of two spatial axes are in channels_last memory. Of each global batch of
    ``batch_size * world_size`` samples the rank takes every ``world_size``-th. The last, incomplete batch of an epoch
    is left out, unless it is the only one.

    The thread and the processes live until ``close``: at the end of an epoch they make the first batches of the next.
    A new iteration ends the one before it.
    """

    def __init__(self, samples: _AugmentedBatches, order: _Order, workers: int, pin: bool) -> None:
        self._samples = samples
        self._order = order
        self._workers = workers
        self._pin = pin
        self._epoch = 0
        self._start_batch = 0
        self._made: Generator[Batch, None, None] = prefetch(())
        self._following: int | None = None  # number of the batch that ``_made`` gives next, over all epochs

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the order and the draws of the next iterations, which begin with batch ``start_batch``."""
        self._epoch, self._start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        first = self._epoch * len(self)
        if self._following != first + self._start_batch:
            self.close()
            self._made = self._from(first + self._start_batch)
            weakref.finalize(self, self._made.close)  # the interpreter must not end before the thread
        made = self._made
        for number in range(first + self._start_batch, first + len(self)):
            self._following = None  # until a batch has come
            batch = next(made)
            self._following = number + 1
            yield batch

    def close(self) -> None:
        """End the thread and the processes; the next iteration starts them anew."""
        self._following = None
        self._made.close()

    def _from(self, number: int) -> Generator[Batch, None, None]:
        """The batches from this number on, without end."""
        make = self._samples.make
        orders = reading_ahead(self._order.reader, self._order.batches(number), lambda order: order[1])
        if self._workers:
            return prefetch(worker_batches(make, orders, self._workers, pin=self._pin))
        return prefetch(map(_pinned, map(make, orders)) if self._pin else map(make, orders))


@dataclass(frozen=True)
class _Order:
    """Which samples each batch of a rank has."""

    reader: ShardReader
    batch_size: int
    seed: int
    rank: int
    world_size: int

    def __len__(self) -> int:
        """Batches of an epoch."""
        return max(1, len(self.reader) // (self.batch_size * self.world_size))

    def batches(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Epoch and samples of each batch from this number on, without end."""
        first, skipped = divmod(number, len(self))
        step = self.batch_size * self.world_size
        for epoch in itertools.count(first):
            order = self.reader.shuffled(np.random.default_rng((self.seed, epoch, 0)))
            for batch in range(skipped, len(self)):
                yield epoch, order[batch * step : (batch + 1) * step][self.rank :: self.world_size]
            skipped = 0


class _AugmentedBatches:
    """The batch of any samples in one epoch; sent to worker processes."""

    def __init__(self, reader: ShardReader, augment: Augment, task: MakesTargets, seed: int) -> None:
        self._reader = reader
        self._augment = augment
        self._task = task
        self._seed = seed
        self._outside = _outside(reader)

    def make(self, order: tuple[int, np.ndarray]) -> Batch:
        """The batch of an epoch and of the numbers of samples."""
        epoch, indices = order
        images, annotations = zip(*[self._sample(epoch, int(index)) for index in indices], strict=True)
        return Batch(_channels_first(images), self._task.targets(annotations), torch.from_numpy(indices))

    def _sample(self, epoch: int, index: int) -> tuple[np.ndarray, Annotation]:
        rng = np.random.default_rng((self._seed, epoch, 1 + index))
        image, annotation = self._augmented(index, rng)
        if not self._augment.copy_paste:
            return image, annotation
        rng = np.random.default_rng((self._seed, epoch, 1 + index, 1))  # draws of its own: all others stay as they are
        if rng.random() >= self._augment.copy_paste:
            return image, annotation
        source = self._augmented(int(rng.choice(self._reader.at_hand(index))), rng)
        return paste_objects(image, annotation, *source, self._reader.labels.things, rng)

    def _augmented(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, Annotation]:
        objects = self._task.reads_objects or self._augment.copy_paste > 0
        annotation = self._reader.annotation(index, objects=objects)
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
    """An ``EvaluationBatch`` of up to ``batch_size`` consecutive samples whose images have one size, and together no
    more than ``most_pixels`` unless it is one, for all samples in order.

    Images have the shards' type; those of two spatial axes are in channels_last memory. Memory maps are released after
    each batch, so that memory does not grow with the dataset.
    """

    def __init__(self, reader: ShardReader, batch_size: int, most_pixels: float, rank: int, world_size: int) -> None:
        self._reader = reader
        self._batches: list[list[int]] = []
        most = np.minimum(most_pixels / reader.sizes.prod(axis=1), batch_size)
        for index in range(rank, len(reader), world_size):
            last = self._batches[-1] if self._batches else []
            if 0 < len(last) <= most[index] - 1 and (reader.sizes[last[0]] == reader.sizes[index]).all():
                last.append(index)
            else:
                self._batches.append([index])

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return prefetch(map(self._read, reading_ahead(self._reader, self._batches, lambda batch: batch)))

    def _read(self, indices: list[int]) -> EvaluationBatch:
        reader = self._reader
        # sample by sample: the reader holds the record that it read last
        samples = [(reader.image(index), _in_memory(reader.annotation(index)), reader.id(index)) for index in indices]
        images, annotations, ids = (list(values) for values in zip(*samples, strict=True))
        batch = EvaluationBatch(_channels_first(images), annotations, ids, indices)
        reader.release()
        return batch


def evaluation_loader(
    reader: ShardReader, *, batch_size: int, most_pixels: float = math.inf, rank: int = 0, world_size: int = 1
) -> EvaluationLoader:
    """Iterable over every sample once: see ``EvaluationLoader``. A rank takes every ``world_size``-th sample."""
    return EvaluationLoader(reader, batch_size, most_pixels, rank, world_size)


def _in_memory(annotation: Annotation) -> Annotation:
    """The annotation without views into a memory map."""
    return replace(
        annotation,
        classes=annotation.classes.copy(),
        layers=annotation.layers.copy(),
        further={name: labels.copy() for name, labels in annotation.further.items()},
    )


def _channels_first(images: Sequence[np.ndarray]) -> Tensor:
    """Stack of images ``(*spatial, C)`` as a tensor ``(B, C, *spatial)``."""
    batch = torch.from_numpy(np.stack(images)).movedim(-1, 1)
    return batch if batch.ndim == 4 else batch.contiguous()  # models of volumes keep the order of the axes

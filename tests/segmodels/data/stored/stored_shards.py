"""Small shards in a store, and what is read from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from segmodels.annotations import Annotation
from segmodels.data.augment import Augment
from segmodels.data.loader import training_loader
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.labels import LabelMap

LABELS = LabelMap(("a", "b"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1})
AUGMENT = Augment(crop=(16, 24), scale=(0.7, 1.4), flip=0.5)
SHARDS, EACH = 11, 3
"""Of the train split, with samples of each."""


class Classes:
    reads_objects = False

    def targets(self, annotations: Sequence[Annotation]) -> torch.Tensor:
        return torch.from_numpy(np.stack([annotation.classes for annotation in annotations]))


def write_shards(folder: Path) -> None:
    """Shards of equal size."""
    with ShardWriter(folder, LABELS, "d", shard_bytes=EACH * 20 * 30 * 4) as writer:
        for split, count in (("train", SHARDS * EACH), ("val", 5)):
            for index in range(count):
                rng = np.random.default_rng(index)
                image, mask = rng.integers(0, 256, (20, 30, 3), np.uint8), rng.integers(0, 2, (20, 30), np.uint8)
                writer.add(split, f"{split} {index:03}", image, Annotation.of_classes(mask))
    assert len(list(folder.glob("train-*"))) == SHARDS


def size(folder: Path) -> int:
    return (folder / "train-00000.arrow").stat().st_size


def stored(folder: Path, shards: float | None = None, split: str = "train") -> ShardReader:
    """The shards through a cache with room for ``shards`` of them; None: for all."""
    limit = 1e9 if shards is None else shards * size(folder)
    return ShardReader(f"file://{folder}", split, cache_bytes=limit)


def batches(reader: ShardReader, epoch: int = 0, start: int = 0, **options: int) -> list[tuple[torch.Tensor, ...]]:
    loader = training_loader(reader, AUGMENT, Classes(), batch_size=4, seed=0, **options)
    loader.set_epoch(epoch, start)
    return [tuple(batch) for batch in loader]


def equal(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)
    )


def held(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix == ".arrow"]

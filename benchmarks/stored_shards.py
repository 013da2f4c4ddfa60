"""The loader on shards in an object store beside local shards: ``python -m benchmarks.stored_shards``.

tests/slow_store.py is the store: 200 MB/s for all connections together, and 20 ms before each answer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from benchmarks.report import markdown_table, write_section
from segmodels.annotations import Annotation
from segmodels.data.augment import Augment
from segmodels.data.digits import scene, split_sources
from segmodels.data.loader import training_loader
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.shards import ShardReader
from segmodels.labels import LabelMap
from tests.slow_store import slow_store

LATENCY, BANDWIDTH = 0.02, 200e6
HEIGHT, WIDTH, CROP, BATCH = 360, 480, 320, 16
IMAGES, SHARDS = 1600, 20
SIZE = HEIGHT * WIDTH * 4
"""Bytes of an image and its mask."""
PACE = 200
"""Images a second of the training that is imitated: 70 % of the store's bandwidth."""
LABELS = LabelMap(tuple(map(str, range(12))), tuple((20 * c, 0, 0) for c in range(12)), {c: c for c in range(12)})
AUGMENT = Augment((CROP, CROP), (0.75, 1.5), flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
ROUNDS = 3


class Epoch(NamedTuple):
    """How fast an epoch was: images a second, and seconds until its first batch."""

    rate: float
    first: float


class Classes:
    """A task that learns from the class maps."""

    reads_objects = False

    def targets(self, annotations: Sequence[Annotation]) -> torch.Tensor:
        return torch.from_numpy(np.stack([annotation.classes for annotation in annotations]))


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "bucket" / "shards", Path(name) / "cache"
        write_shards(folder)
        os.environ["SEGMODELS_CACHE"] = str(cache)
        with slow_store(folder.parents[1], LATENCY, BANDWIDTH) as store:
            os.environ.update(store.environment)
            stored, windows = "s3://bucket/shards", 9 * IMAGES / SHARDS * SIZE
            windowed = f"store, {SHARDS} shards in a cache of 9"
            contenders: dict[str, Callable[[], Epoch]] = {
                "local shards": lambda: epoch(folder),
                "store, all shards fit the cache, first epoch": lambda: epoch(stored, empty=cache),
                "store, all shards fit the cache, later epochs": lambda: epoch(stored),
                windowed: lambda: epoch(stored, windows, empty=cache),
                f"local shards, training takes {PACE} images/s": lambda: epoch(folder, pace=PACE),
                f"{windowed}, training takes {PACE} images/s": lambda: epoch(stored, windows, pace=PACE, empty=cache),
            }
            rounds = [{name: run() for name, run in contenders.items()} for _ in range(ROUNDS)]
    fastest = {name: max(one[name] for one in rounds) for name in contenders}
    possible = min(fastest["local shards"].rate, BANDWIDTH / SIZE)
    rows = [[name, one.rate, one.rate * SIZE / 1e6, one.first] for name, one in fastest.items()]
    text = (
        f"{IMAGES} images of {HEIGHT}x{WIDTH} with masks in {SHARDS} shards of {IMAGES // SHARDS * SIZE / 1e6:.0f} MB,"
        f" cropped to {CROP}x{CROP} and augmented; one process. The store gives {BANDWIDTH / 1e6:.0f} MB/s, that is"
        f" {BANDWIDTH / SIZE:.0f} images/s, after {1000 * LATENCY:.0f} ms a request; it runs on the same cores. An"
        f" epoch that reads the store has at most {possible:.0f} images/s, the smaller of its rate and that of local"
        f" shards. Fastest of {ROUNDS} epochs."
    )
    table = markdown_table(["input", "images/s", "MB/s", "first batch, s"], rows)
    write_section("Shards in an object store", f"{text}\n\n{table}")


def epoch(address: str | Path, cache_bytes: float = 1e12, *, pace: float = 0, empty: Path | None = None) -> Epoch:
    """Load one epoch.

    Args:
        pace: of the training, images a second; 0: it takes what comes.
        empty: cache to empty first.
    """
    if empty:
        shutil.rmtree(empty, ignore_errors=True)
    reader = ShardReader(address, "train", cache_bytes=cache_bytes)
    loader = training_loader(reader, AUGMENT, Classes(), batch_size=BATCH, seed=0)
    start = time.monotonic()
    batches = iter(loader)
    next(batches)
    first = time.monotonic() - start
    use(batches, pace)
    seconds = time.monotonic() - start
    loader.close()
    return Epoch(len(loader) * BATCH / seconds, first)


def write_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    sources = split_sources(0)["train"]
    made = [scene(np.random.default_rng(number), sources, WIDTH) for number in range(32)]
    with ShardWriter(folder, LABELS, "benchmark", shard_bytes=IMAGES // SHARDS * SIZE) as writer:
        for number in range(IMAGES):
            image, mask = made[number % len(made)]
            writer.add("train", str(number), image[:HEIGHT], Annotation.of_classes(mask[:HEIGHT]))


def use(batches: Iterable[object], pace: float) -> None:
    """Take every batch; ``pace``: most images per second."""
    due = time.monotonic()
    for _ in batches:
        if pace:
            due = max(due, time.monotonic() - 1e-3) + BATCH / pace
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()

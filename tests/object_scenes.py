"""Scenes of the built-in dataset with their objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segmodels.annotations import Annotation, Segment, rows_of
from segmodels.data.digits import CLASSES, draw_scene, split_sources
from segmodels.data.shard_writer import ShardWriter
from segmodels.labels import LabelMap

DIGITS = LabelMap(tuple(CLASSES), tuple(CLASSES.values()), {i: i for i in range(11)}, things=frozenset(range(1, 11)))


def digit_scenes(count: int = 6, size: int = 64, split: str = "train") -> tuple[list[np.ndarray], list[Annotation]]:
    """Images (size, size, 3) uint8 and their annotations."""
    sources = split_sources(0)[split]
    images, annotations = [], []
    for number in range(count):
        drawn = draw_scene(np.random.default_rng((0, 0, number)), sources, size)
        layers = drawn.objects[None].astype(np.uint16)
        labels = {
            int(id): int(drawn.mask[drawn.objects == id][0]) for id in np.unique(drawn.objects[drawn.objects > 0])
        }
        segments = rows_of(layers, [Segment(id, label) for id, label in labels.items()])
        images.append(drawn.image)
        annotations.append(Annotation(drawn.mask, layers, segments))
    return images, annotations


def write_scene_shards(folder: Path, digest: str, empty: int = 0) -> Path:
    """20 scenes: 12 to train on, the first ``empty`` of them without objects, 4 to validate and 4 to test."""
    folder.mkdir(parents=True)
    with ShardWriter(folder, DIGITS, digest, source={"kind": "digits"}) as writer:
        for split, count in (("train", 12), ("val", 4), ("test", 4)):
            for number, (image, annotation) in enumerate(zip(*digit_scenes(count, split=split), strict=True)):
                if split == "train" and number < empty:
                    image, annotation = (
                        np.full_like(image, 90),
                        Annotation.of_classes(np.zeros_like(annotation.classes)),
                    )
                writer.add(split, f"{split}/{number:03d}", image, annotation)
    return folder

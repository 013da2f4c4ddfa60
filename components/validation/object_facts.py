"""Facts about the objects of an annotation: those without room, misplaced and doubled ones."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from segmodels.annotations import Annotation, Box, Segment
from segmodels.labels import LabelMap
from segmodels.run_lengths import encode_ids

Oddity = Literal["specks", "misplaced", "doubled"]


class OddObjects(NamedTuple):
    """Objects of an annotation that are odd; crowds are not looked at.

    Attributes:
        specks: of a single pixel.
        misplaced: of which fewer than half of the pixels have their class in the class map, or which lie on the only
            class that is not countable, the background.
        doubled: which have the class and exactly the pixels of one before them.
    """

    specks: list[Segment]
    misplaced: list[Segment]
    doubled: list[Segment]


def odd_objects(annotation: Annotation, labels: LabelMap) -> OddObjects:
    """The odd objects, in the annotation's order."""
    if not annotation.segments:
        return OddObjects([], [], [])
    most = max(segment.id for segment in annotation.segments)
    label = np.full(most + 1, -1, np.int32)
    label[[segment.id for segment in annotation.segments]] = [segment.label for segment in annotation.segments]
    area, agreeing = np.zeros((2, most + 1), np.int64)
    for layer in annotation.layers:
        area += np.bincount(layer.ravel(), minlength=most + 1)
        agreeing += np.bincount(layer[label[layer] == annotation.classes], minlength=most + 1)
    stuff = set(range(labels.num_classes)) - labels.things
    background = stuff if len(stuff) == 1 else set()
    single = [segment for segment in annotation.segments if not segment.crowd]
    return OddObjects(
        [segment for segment in single if area[segment.id] == 1],
        [segment for segment in single if 2 * agreeing[segment.id] < area[segment.id] or segment.label in background],
        _doubled(annotation, single),
    )


def place_of_first(annotation: Annotation, labels: LabelMap, oddity: Oddity) -> Box | None:
    """Box of the first odd object of an image; None where it has none, and in volumes."""
    found: list[Segment] = getattr(odd_objects(annotation, labels), oddity)
    return found[0].box if found else None


def _doubled(annotation: Annotation, segments: list[Segment]) -> list[Segment]:
    layers = annotation.layers
    if len(layers) < 2:  # objects that share pixels lie in different layers
        return []
    masks = encode_ids(layers.reshape(len(layers), -1, layers.shape[-1]), [own.id for own in segments])
    seen: set[tuple[int, bytes]] = set()
    doubled = []
    for segment, mask in zip(segments, masks, strict=True):
        if (segment.label, mask) in seen:
            doubled.append(segment)
        seen.add((segment.label, mask))
    return doubled

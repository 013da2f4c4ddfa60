"""True objects and true panoptic maps of an annotation, as targets and as results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from segmodels import run_lengths
from segmodels.annotations import Annotation, Segment
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.results import PanopticMap
from segmodels.tasks.targets import Segments


def things_of(annotation: Annotation, labels: LabelMap) -> list[Segment]:
    """The objects of an image, crowds included: its segments of countable classes.

    Raises:
        InputError: a volume.
    """
    if len(annotation.size) != 2:
        raise InputError(
            f"an annotation has the size {annotation.size}, expected (height, width): objects are of images alone"
        )
    return [segment for segment in annotation.segments if segment.label in labels.things]


def encoded_masks(annotation: Annotation, segments: Sequence[Segment]) -> list[bytes]:
    """Masks of the segments as compressed counts of COCO's run-length encoding."""
    return run_lengths.encode_ids(annotation.layers, [segment.id for segment in segments])


def panoptic_map(annotation: Annotation, labels: LabelMap) -> PanopticMap:
    """Things from the objects, stuff from the class map; void where neither says anything, and on pixels of things
    without an object.

    Where objects overlap, a pixel belongs to the one whose class the class map has there, else to the first layer's.
    """
    classes = annotation.classes
    ids = np.zeros(annotation.size, dtype=np.int32)
    segments = [segment._replace(id=number) for number, segment in enumerate(things_of(annotation, labels), start=1)]
    table = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.int32)
    own = np.full(len(segments) + 1, labels.ignore_index)
    for segment, source in zip(segments, things_of(annotation, labels), strict=True):
        table[source.id], own[segment.id] = segment.id, segment.label
    layers = [table[layer] for layer in annotation.layers]
    for agreed in (True, False):
        for layer in layers:
            free = (ids == 0) & (layer > 0)
            np.copyto(ids, layer, where=free & (own[layer] == classes) if agreed else free)
    for label in range(labels.num_classes):
        mask = (classes == label) & (ids == 0)
        if label not in labels.things and mask.any():
            segments.append(Segment(len(segments) + 1, label))
            ids[mask] = len(segments)
    seen = set(np.unique(ids).tolist())  # an object may be hidden by others
    return PanopticMap(ids, tuple(segment for segment in segments if segment.id in seen))


def segments_of(masks: NDArray[np.bool_], labels: Sequence[int], crowd: Sequence[bool], valid: NDArray) -> Segments:
    """Targets of one image; masks without a pixel are left out.

    Args:
        masks: ``(K, H, W)``.
        labels, crowd: of each mask.
        valid: ``(H, W)`` bool, False where ignored.
    """
    there = np.asarray(masks.any(axis=(1, 2)))
    masks = masks[there]
    return Segments(
        torch.tensor(labels, dtype=torch.int64)[torch.from_numpy(there)],
        torch.from_numpy(np.ascontiguousarray(masks)),
        torch.from_numpy(np.ascontiguousarray(valid)),
        torch.from_numpy(_boxes(masks)),
        crowds if (crowds := torch.tensor(crowd, dtype=torch.bool)[torch.from_numpy(there)]).any() else None,
    )


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Left, top, right, bottom of masks ``(K, H, W)`` that have a pixel each."""
    rows, columns = np.asarray(masks.any(axis=2)), np.asarray(masks.any(axis=1))
    if not len(masks):
        return np.zeros((0, 4), dtype=np.float32)
    ends = (columns.argmax(1), rows.argmax(1), _last(columns), _last(rows))
    return np.stack(ends, axis=1).astype(np.float32)


def _last(lines: NDArray[np.bool_]) -> NDArray[np.int64]:
    return lines.shape[1] - lines[:, ::-1].argmax(axis=1)

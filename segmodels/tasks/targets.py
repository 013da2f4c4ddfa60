"""Targets of batches: pytrees of tensors that ``Task.targets`` makes of annotations."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SemanticTargets(NamedTuple):
    """Targets of tasks that learn from class maps."""

    classes: Tensor  # (B, *spatial) train ids in the labels' dtype
    image_label: Tensor | None = None  # (B,) int64; None where an image has none
    further: dict[str, Tensor] = {}  # noqa: RUF012  # name -> class maps (B, *spatial) with a label map of their own


class Segments(NamedTuple):
    """The true segments of one image: its classes (semantic), or its things and stuff (instance, panoptic)."""

    labels: Tensor  # (K,) int64, class of each segment
    masks: Tensor  # (K, H, W) bool
    valid: Tensor  # (H, W) bool, False where ignored
    boxes: Tensor | None = None  # (K, 4) float32: left, top, right, bottom in pixels; None for classes
    crowd: Tensor | None = None  # (K,) bool; None: no segment is one


def without_crowds(segments: Segments) -> Segments:
    """The segments without crowds, which are not single objects: their pixels are ignored."""
    if segments.crowd is None or not segments.crowd.any():
        return segments
    own = ~segments.crowd
    valid = segments.valid & ~(segments.masks[segments.crowd].any(dim=0) & ~segments.masks[own].any(dim=0))
    return Segments(segments.labels[own], segments.masks[own], valid)


class SegmentTargets(NamedTuple):
    """Targets of tasks that learn from objects or panoptic maps."""

    segments: list[Segments]  # of each image
    classes: Tensor  # (B, H, W) train ids in the labels' dtype

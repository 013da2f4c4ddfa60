"""Which true object a box stands for, and which boxes a detector's heads are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segmodels.layers.anchors import encode
from segmodels.layers.nms import box_area, box_intersection, box_iou, places

BACKGROUND, UNDECIDED = -1, -2
"""In the place of an object: for a box without one, and for a box that is not trained on."""

IN_CROWD = 0.5
"""Share of a box's area in a crowd from which it is no background."""


class Objects(NamedTuple):
    """The true objects of one image."""

    boxes: Tensor  # (G, 4) left, top, right, bottom in pixels, each with an area
    labels: Tensor  # (G,) int64, places among the model's classes
    masks: Tensor  # (G, H, W) bool
    crowds: Tensor  # (N, 4) boxes in which single objects are not told apart


class Samples(NamedTuple):
    """Outputs of one head for its samples of all images of a batch, and their targets."""

    scores: Tensor  # (N,) objectness, or (N, C + 1) logits with the background first
    labels: Tensor  # (N,) 0 or 1, or classes 0..C, 0 the background
    deltas: Tensor  # (P, 4) coded boxes of the positive ones ...
    true_deltas: Tensor  # ... and their objects'


def objects_of(segments: Sequence[Any], detected: Tensor | None = None) -> list[Objects]:
    """The true objects of each image, of the segments of targets.

    Args:
        detected: ``(C,)`` place of each class among those that the model detects, negative for others; None: the
            segments' labels are such places.
    """
    if detected is None and all(own.crowd is None for own in segments):  # the usual case needs no wait
        return [Objects(own.boxes, own.labels, own.masks, own.boxes[:0]) for own in segments]
    labels = [own.labels if detected is None else detected[own.labels] for own in segments]
    crowds = [
        torch.zeros_like(label, dtype=torch.bool) if own.crowd is None else own.crowd
        for own, label in zip(segments, labels, strict=True)
    ]
    known = list(zip(labels, crowds, strict=True))
    rows = places([(label >= 0) & ~crowd for label, crowd in known] + [(label >= 0) & crowd for label, crowd in known])
    return [
        Objects(own.boxes[single], label[single], own.masks[single], own.boxes[crowd])
        for own, label, single, crowd in zip(segments, labels, rows[: len(known)], rows[len(known) :], strict=True)
    ]


class BoxesOfObjects(NamedTuple):
    """Sampled boxes that stand for an object, P in all images of a batch."""

    boxes: list[Tensor]  # (N, 4) of each image
    owners: list[Tensor]  # (N,) int64, which object of its image
    labels: Tensor  # (P,) int64, places among the classes
    rows: Tensor  # (P,) int64, places among the boxes of all images
    spare: list[Tensor]  # (0 or 1, 4) some box of each image, by which a layer gets a gradient where P is 0

    def deltas(self, truth: Sequence[Objects], weights: Sequence[float]) -> Tensor:
        """The objects' own boxes relative to these, ``(P, 4)``."""
        images = zip(truth, self.owners, self.boxes, strict=True)
        return torch.cat([encode(objects.boxes[owner], boxes, weights) for objects, owner, boxes in images])


class Chosen(NamedTuple):
    """Boxes that a second stage is trained on, a tensor per image."""

    boxes: list[Tensor]  # (N, 4) left, top, right, bottom in pixels
    owners: list[Tensor]  # (N,) the object of each, or ``BACKGROUND``
    rows: list[Tensor]  # (P,) int64, places of those that stand for an object
    true: list[Tensor]  # (N,) bool, whether it is an object's own box and no proposal

    def labels(self, truth: Sequence[Objects]) -> Tensor:
        """Classes of the boxes of all images, ``(ΣN,)`` int64: 0 is the background, 1 the first class."""
        tables = [torch.cat([objects.labels.new_zeros(1), objects.labels + 1]) for objects in truth]
        return torch.cat([table[owner - BACKGROUND] for table, owner in zip(tables, self.owners, strict=True)])

    def of_objects(self, truth: Sequence[Objects]) -> BoxesOfObjects:
        """Without the background."""
        rows = self.rows
        firsts = accumulate((len(own) for own in self.boxes[:-1]), initial=0)
        among_all = torch.cat([row + first for row, first in zip(rows, firsts, strict=True)])
        boxes = [own[row] for own, row in zip(self.boxes, rows, strict=True)]
        owners = [own[row] for own, row in zip(self.owners, rows, strict=True)]
        labels = [objects.labels[owner] for objects, owner in zip(truth, owners, strict=True)]
        return BoxesOfObjects(boxes, owners, torch.cat(labels), among_all, [own[:1] for own in self.boxes])


def choose(proposals: Sequence[Tensor], truth: Sequence[Objects], count: int, overlap: float) -> Chosen:
    """Random boxes among the proposals ``(P, 4)`` of each image and its objects' own, ``count`` of an image, at most a
    quarter of them of objects: those whose IoU with one is at least ``overlap``.
    """
    candidates = [torch.cat([own, objects.boxes.to(own.dtype)]) for own, objects in zip(proposals, truth, strict=True)]
    matched = [match(objects, own, overlap, overlap) for objects, own in zip(truth, candidates, strict=True)]
    sampled = sample(matched, count, positive=0.25)
    chosen = [torch.cat(both).sort() for both in sampled]
    return Chosen(
        [own[values] for own, (values, _) in zip(candidates, chosen, strict=True)],
        [own[values] for own, (values, _) in zip(matched, chosen, strict=True)],
        [
            torch.nonzero_static(order < len(positive), size=len(positive))[:, 0]
            for (positive, _), (_, order) in zip(sampled, chosen, strict=True)
        ],
        [values >= len(own) for own, (values, _) in zip(proposals, chosen, strict=True)],
    )


def match(objects: Objects, boxes: Tensor, high: float, low: float, every: bool = False) -> Tensor:
    """The object of each box ``(N, 4)``, or ``BACKGROUND``, or ``UNDECIDED``: ``(N,)`` int64.

    A box stands for the object that it overlaps most if the IoU is at least ``high``. It is background if all are below
    ``low`` and it does not lie in a crowd.

    Args:
        every: the boxes with the largest IoU of an object stand for an object too, however small the IoU is.
    """
    if len(objects.boxes):
        iou = box_iou(objects.boxes, boxes)
        best, owner = iou.max(dim=0)
        found = torch.where(best >= high, owner, torch.where(best < low, BACKGROUND, UNDECIDED))
        if every:
            nearest = (iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)
            found = torch.where(nearest.any(dim=0), owner, found)
    else:
        found = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    if len(objects.crowds):
        covered = box_intersection(boxes, objects.crowds) / box_area(boxes).clamp(min=1e-6)[:, None]
        found = torch.where((found == BACKGROUND) & (covered > IN_CROWD).any(dim=1), UNDECIDED, found)
    return found


def sample(matched: Sequence[Tensor], count: int, positive: float) -> list[tuple[Tensor, Tensor]]:
    """Of each image, random places of boxes that stand for an object, at most the share ``positive`` of ``count``, and
    of boxes of the background, which fill up to ``count``. Places are in ascending order.

    Args:
        matched: ``(N,)`` of each image, as ``match`` returns it.
    """
    rows = places([own >= 0 for own in matched] + [own == BACKGROUND for own in matched])
    found = []
    for of_objects, background in zip(rows[: len(matched)], rows[len(matched) :], strict=True):
        own = _drawn(of_objects, int(count * positive))
        found.append((own, _drawn(background, count - len(own))))
    return found


def _drawn(candidates: Tensor, count: int) -> Tensor:
    order = torch.randperm(len(candidates), device=candidates.device)
    return candidates[order[:count]].sort().values

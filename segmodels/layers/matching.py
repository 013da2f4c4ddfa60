"""Which true object a box stands for, and which boxes a detector's heads are trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segmodels.layers.nms import box_area, box_intersection, box_iou, places

BACKGROUND, UNDECIDED = -1, -2
"""Of a box without an object, and of one that is not trained on."""

IN_CROWD = 0.5
"""Share of a box's area in a crowd from which it is no background."""


class Objects(NamedTuple):
    """The true objects of one image."""

    boxes: Tensor  # (G, 4) left, top, right, bottom in pixels, each with an area
    labels: Tensor  # (G,) int64, places among the model's classes
    masks: Tensor  # (G, H, W) bool
    crowds: Tensor  # (N, 4) boxes in which single objects are not told apart


class Samples(NamedTuple):
    """What one head said of its samples over all images of a batch, and what is true of them."""

    scores: Tensor  # (N,) objectness, or (N, C + 1) logits with the background first
    labels: Tensor  # (N,) 0 or 1, or classes 0..C, 0 the background
    deltas: Tensor  # (P, 4) coded boxes of the positive ones ...
    true_deltas: Tensor  # ... and their objects'


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


def sample(matched: Tensor, count: int, positive: float) -> tuple[Tensor, Tensor]:
    """Random places of boxes that stand for an object, at most the share ``positive`` of ``count``, and of boxes of the
    background, which fill up to ``count``. Places are in ascending order.

    Args:
        matched: ``(N,)``, as ``match`` returns it.
    """
    of_objects, background = places(matched >= 0), places(matched == BACKGROUND)
    own = _drawn(of_objects, int(count * positive))
    return own, _drawn(background, count - len(own))


def _drawn(candidates: Tensor, count: int) -> Tensor:
    order = torch.randperm(len(candidates), device=candidates.device)
    return candidates[order[:count]].sort().values

"""Non-maximum suppression of boxes, and their intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
"""Boxes that are compared with one another at once."""


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices ``(K,)`` int64 of the boxes that remain, best first.

    Greedy: a box is dropped if its IoU with a kept box of a better score is above ``threshold``; of equal scores the
    first is better.

    Args:
        boxes: ``(N, 4)`` left, top, right, bottom.
        scores: ``(N,)``.
    """
    return _greedy(boxes, scores, None, threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """As ``nms``, where boxes of different ``groups`` ``(N,)`` (classes, images, levels) do not compete."""
    return _greedy(boxes, scores, groups, threshold)


def fast_nms(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Which boxes are dropped, ``(..., N)`` bool: those that a better one of their class overlaps by more than
    ``threshold`` of IoU, whether or not the better one is dropped itself (YOLACT, Bolya 2019, 1904.02689, section 5).

    Args:
        boxes: ``(..., N, 4)`` left, top, right, bottom, best first.
        labels: ``(..., N)``.
    """
    competing = labels[..., :, None] == labels[..., None, :]
    return ((box_iou(boxes, boxes) > threshold) & competing).triu(diagonal=1).any(dim=-2)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU ``(..., N, M)`` of boxes ``(..., N, 4)`` and ``(..., M, 4)``: left, top, right, bottom; 0 for boxes without
    area.
    """
    inter = box_intersection(first, second)
    union = box_area(first)[..., :, None] + box_area(second)[..., None, :] - inter
    return inter / torch.where(union > 0, union, 1)


def box_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Common area ``(..., N, M)`` of boxes ``(..., N, 4)`` and ``(..., M, 4)``."""
    first, second = first[..., :, None, :], second[..., None, :, :]
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Areas ``(...)`` of boxes ``(..., 4)``."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def places(mask: Tensor) -> Tensor:
    """Indices of the true entries of a mask ``(N,)``; on the meta device, where none is known, of all entries, so that
    the work of a detector can be counted.
    """
    return torch.arange(len(mask), device=mask.device) if mask.is_meta else mask.nonzero()[:, 0]


@torch.no_grad()
def _greedy(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    """Block by block of the best boxes that are left: the kept boxes of a block drop others of the block, then all the
    rest, so that memory grows with N.
    """
    left = scores.argsort(descending=True, stable=True)
    kept = []
    while len(left) and not boxes.is_meta:
        block, rest = left[:BLOCK], left[BLOCK:]
        better = block[_undropped(_compete(boxes, groups, block, block, threshold).triu(diagonal=1))]
        kept.append(better)
        left = rest[~_compete(boxes, groups, better, rest, threshold).any(dim=0)]
    return torch.cat(kept) if kept else left


def _compete(boxes: Tensor, groups: Tensor | None, better: Tensor, worse: Tensor, threshold: float) -> Tensor:
    """Whether the boxes at ``better`` ``(N,)`` would drop those at ``worse`` ``(M,)``, ``(N, M)``."""
    overlaps = box_iou(boxes[better], boxes[worse]) > threshold
    return overlaps if groups is None else overlaps & (groups[better][:, None] == groups[worse])


def _undropped(overlaps: Tensor) -> Tensor:
    """Which boxes ``(N,)`` the greedy rule keeps, given who would drop whom ``(N, N)``, each row's box better than the
    later ones: the fixed point of Cluster-NMS (Zheng 2020, 2005.03572, algorithm 2).
    """
    kept = torch.ones(len(overlaps), dtype=torch.bool, device=overlaps.device)
    while True:
        again = ~(overlaps & kept[:, None]).any(dim=0)
        if torch.equal(again, kept):
            return kept
        kept = again

"""Non-maximum suppression of boxes, and their intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor

from segmodels.device import places

BLOCK, GPU_BLOCK = 256, 2048
"""Boxes that are compared with one another at once: few on a CPU, which then has less to compute, many on a GPU, for
which the host then waits less often.
"""
ROUNDS = 8  # towards the fixed point, until a GPU is asked whether it is reached
PAIRS = 1 << 24  # of boxes that a GPU compares at once, half a gigabyte


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices ``(K,)`` int64 of the boxes that remain, best first.

    Greedy: a box is dropped if its IoU with a kept box of a better score is above ``threshold``; of equal scores the
    first is better.

    Args:
        boxes: ``(N, 4)`` left, top, right, bottom.
        scores: ``(N,)``.
    """
    return _in_order(boxes, scores, None, threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """As ``nms``, where boxes of different ``groups`` ``(N,)`` (classes, images, levels) do not compete."""
    return _in_order(boxes, scores, groups, threshold)


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


@torch.no_grad()
def kept_of_groups(boxes: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Which of G groups of N boxes ``nms`` keeps, ``(G, N)`` bool; each group has its best box first.

    Args:
        boxes: ``(G, N, 4)`` left, top, right, bottom.
        usable: ``(G, N)`` bool; other boxes are not kept and drop none.
    """
    if boxes.is_meta:
        return usable
    if boxes.device.type != "cpu":
        together = max(1, PAIRS // max(1, boxes.shape[1] ** 2))
        drops = [(box_iou(own, own) > threshold).triu_(1) for own in boxes.split(together)]
        return _undropped(torch.cat(drops), usable)
    kept = torch.zeros_like(usable)
    for own, rows, own_kept in zip(boxes, places(list(usable)), kept, strict=True):
        own_kept[rows[_greedy(own[rows], None, threshold)]] = True
    return kept


@torch.no_grad()
def _in_order(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    return order[_greedy(boxes[order], None if groups is None else groups[order], threshold)]


def _greedy(boxes: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    """Block by block of the best boxes that are left: the kept boxes of a block drop others of the block, then all the
    rest, so that memory grows with N. The best box is the first.
    """
    left = torch.arange(len(boxes), device=boxes.device)
    kept = []
    while len(left) and not boxes.is_meta:
        on_gpu = boxes.device.type != "cpu"
        length = max(BLOCK, min(GPU_BLOCK, PAIRS // len(left))) if on_gpu else BLOCK
        block, rest = left[:length], left[length:]
        drops = _compete(boxes, groups, block, block, threshold).triu(diagonal=1)
        better = block[_undropped(drops, torch.ones_like(block, dtype=torch.bool))]
        kept.append(better)
        left = rest[~_compete(boxes, groups, better, rest, threshold).any(dim=0)] if len(rest) else rest
    return torch.cat(kept) if kept else left


def _compete(boxes: Tensor, groups: Tensor | None, better: Tensor, worse: Tensor, threshold: float) -> Tensor:
    """Whether the boxes at ``better`` ``(N,)`` would drop those at ``worse`` ``(M,)``, ``(N, M)``."""
    overlaps = box_iou(boxes[better], boxes[worse]) > threshold
    return overlaps if groups is None else overlaps & (groups[better][:, None] == groups[worse])


def _undropped(drops: Tensor, usable: Tensor) -> Tensor:
    """Which of the usable boxes ``(..., N)`` the greedy rule keeps, given who would drop whom ``(..., N, N)``, each
    row's box better than the later ones: the fixed point of Cluster-NMS (Zheng 2020, 2005.03572, algorithm 2).
    """
    kept = usable
    while True:
        for _ in range(1 if drops.device.type == "cpu" else ROUNDS):
            before, kept = kept, usable & ~(drops & kept[..., None]).any(dim=-2)
        if torch.equal(before, kept):
            return kept

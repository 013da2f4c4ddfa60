"""Non-maximum suppression of boxes, and their intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``: left, top, right, bottom; 0 for boxes without area."""
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    inter = (torch.minimum(first[:, None, 2:], second[None, :, 2:]) - corner).clamp(min=0).prod(dim=2)
    union = box_area(first)[:, None] + box_area(second) - inter
    return inter / torch.where(union > 0, union, 1)


def box_area(boxes: Tensor) -> Tensor:
    """Of boxes ``(..., 4)``, ``(...)``."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Indices ``(K,)`` int64 of the boxes that remain, best first.

    Greedy: a box is dropped if its IoU with a kept box of a better score is above ``threshold``; of equal scores the
    first is better. Works on the whole matrix of overlaps at once (Cluster-NMS, Zheng 2020, 2005.03572, algorithm 2:
    the fixed point of its iteration is the greedy result), so memory grows with N².

    Args:
        boxes: ``(N, 4)`` left, top, right, bottom.
        scores: ``(N,)``.
        labels: ``(N,)`` classes; boxes of different ones do not compete. None: all compete.
    """
    order = scores.argsort(descending=True, stable=True)
    overlaps = box_iou(boxes[order], boxes[order]) > threshold
    if labels is not None:
        overlaps &= labels[order][:, None] == labels[order]
    overlaps = overlaps.triu(diagonal=1)  # row: the better box
    kept = torch.ones_like(order, dtype=torch.bool)
    while True:
        again = ~(overlaps & kept[:, None]).any(dim=0)
        if torch.equal(again, kept):
            return order[kept]
        kept = again

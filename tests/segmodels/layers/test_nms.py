"""Non-maximum suppression against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmodels.device import places
from segmodels.layers.nms import BLOCK, _undropped, batched_nms, box_iou, kept_of_groups, nms


def plain_iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0


def plain_loop(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)):
        rivals = (j for j in kept if labels[i] == labels[j])
        if all(plain_iou(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in rivals):
            kept.append(i)
    return kept


def drawn(seed: int, count: int = 120) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (count, 2), generator=generator).double()
    size = torch.randint(0, 30, (count, 2), generator=generator).double()
    scores = torch.randint(0, 20, (count,), generator=generator) / 20  # many are tied
    return torch.cat([corner, corner + size], dim=1), scores, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_kept_boxes_are_those_of_a_plain_loop(seed: int, threshold: float) -> None:
    boxes, scores, labels = drawn(seed)
    assert batched_nms(boxes, scores, labels, threshold).tolist() == plain_loop(boxes, scores, threshold, labels)
    every = torch.zeros_like(labels)
    assert nms(boxes, scores, threshold).tolist() == plain_loop(boxes, scores, threshold, every)


def test_a_dropped_box_drops_none() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]


def test_boxes_of_several_blocks() -> None:
    boxes, scores, labels = drawn(3, count=2 * BLOCK + 7)
    assert batched_nms(boxes, scores, labels, 0.6).tolist() == plain_loop(boxes, scores, 0.6, labels)


def groups(count: int) -> tuple[Tensor, Tensor]:
    """Boxes of four groups, each with its best first, and which of them are usable."""
    each = []
    for seed in range(4):
        boxes, scores, _ = drawn(seed, count)
        each.append(boxes[scores.argsort(descending=True, stable=True)])
    return torch.stack(each), torch.rand(4, count, generator=torch.Generator().manual_seed(0)) > 0.2


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_groups_keep_what_each_keeps_alone_whichever_way_they_are_compared(threshold: float) -> None:
    boxes, usable = groups(150)
    kept = kept_of_groups(boxes, usable, threshold)
    for own, rows, found in zip(boxes, places(list(usable)), places(list(kept)), strict=True):
        order = plain_loop(own[rows], -rows, threshold, torch.zeros_like(rows))
        assert found.tolist() == rows[order].tolist()
    drops = (box_iou(boxes, boxes) > threshold).triu(1)
    assert torch.equal(_undropped(drops, usable), kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_keeps_what_the_cpu_keeps() -> None:
    boxes, usable = groups(3000)
    assert torch.equal(kept_of_groups(boxes.cuda(), usable.cuda(), 0.6).cpu(), kept_of_groups(boxes, usable, 0.6))
    boxes, scores, labels = drawn(1, count=5000)
    found = batched_nms(boxes.cuda(), scores.cuda(), labels.cuda(), 0.6)
    assert found.tolist() == batched_nms(boxes, scores, labels, 0.6).tolist()


def test_no_boxes() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []


def test_overlaps_are_those_of_a_plain_loop() -> None:
    boxes, _, _ = drawn(9, count=30)
    expected = torch.tensor([[plain_iou(a, b) for b in boxes.tolist()] for a in boxes.tolist()]).double()
    torch.testing.assert_close(box_iou(boxes, boxes), expected, rtol=1e-6, atol=1e-6)

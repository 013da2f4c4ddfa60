"""On a GPU: how often losses wait for it, and that their numbers are those of the CPU.

Needs nothing but torch, scipy and pytest: ``python -m pytest --noconftest`` runs it on a bare machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segmodels.losses import create_loss
from segmodels.losses.base import LogitsLoss
from segmodels.losses.detection import DetectionLoss
from segmodels.losses.mask_classification import MaskClassificationLoss
from segmodels.losses.points import PointsLoss
from segmodels.losses.registry import LOSSES
from segmodels.models.registry import create_model
from segmodels.outputs import QueryOutput
from segmodels.tasks.targets import Segments, SegmentTargets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

BY_DESIGN = {"border_weighted_cross_entropy", "boundary", "distance_penalized_cross_entropy", "hausdorff"}
"""Distances are computed on the CPU."""

NAMES = sorted(
    name
    for name in LOSSES.names()
    if isinstance(LOSSES[name].build, type) and issubclass(LOSSES[name].build, LogitsLoss) and name not in BY_DESIGN
)


@contextmanager
def waits() -> Iterator[Callable[[], list[str]]]:
    """The lines at which the block waited for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lambda: [
                f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)
            ]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_of_logits_does_not_wait_and_gives_the_numbers_of_the_cpu(name: str) -> None:
    torch.manual_seed(0)
    classes, side = 2 if name == "lovasz_hinge" else 4, 192 if name == "ms_ssim" else 16
    loss = create_loss({name: 1.0}, class_weights=torch.ones(classes))
    logits = torch.randn(2, classes, side, side, requires_grad=True)
    target = torch.randint(0, classes, (2, side, side), dtype=torch.uint8)
    target[:, :3] = 255
    expected = loss(logits, target)
    (slope,) = torch.autograd.grad(expected, logits)
    loss, there, labels = loss.cuda(), logits.detach().cuda().requires_grad_(), target.cuda()
    with waits() as lines:
        found = loss(there, labels)
        (gradient,) = torch.autograd.grad(found, there)
    assert lines() == []
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient.cpu(), slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))


def test_a_step_of_pointrend_does_not_wait() -> None:
    model, images = create_model("pointrend_r50", 3).cuda(), torch.randn(2, 3, 64, 64, device="cuda")
    target = torch.zeros(2, 64, 64, dtype=torch.uint8, device="cuda")
    points, whole = PointsLoss(), create_loss({"cross_entropy": 1.0})
    with waits() as lines:
        output = model(images)
        (whole(output.logits, target) + points(output.extras["points"], target)).backward()
    assert lines() == []


@pytest.mark.parametrize("objects", [False, True])
def test_a_step_of_mask_classification_waits_once(objects: bool) -> None:
    torch.manual_seed(0)
    loss, classes = MaskClassificationLoss(), 5
    target = torch.randint(0, classes, (3, 3, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    target[:, 0] = 255
    logits = [(2 * torch.randn(3, 9, classes + 1), 3 * torch.randn(3, 9, 6, 8)) for _ in range(7)]

    def value(device: str) -> tuple[Tensor, list[str]]:
        # leaves of their own: gradients would otherwise go back to the CPU's, waiting once for each
        layers = [QueryOutput(*(part.detach().to(device).requires_grad_() for part in layer)) for layer in logits]
        own = target.to(device)
        labels = torch.arange(classes, device=device)
        crowd = labels == 2
        segments = [Segments(labels, names == labels[:, None, None], names != 255, crowd=crowd) for names in own]
        with waits() as lines:
            total = torch.stack(loss.of_layers(layers, segments if objects else own)).sum()
            total.backward()
        return total.detach().cpu(), lines()

    (expected, _), (found, lines) = value("cpu"), value("cuda")
    assert len(lines) == 1, lines
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn", "pointrend_rcnn_r50_fpn", "htc_r50_fpn"])
def test_a_step_of_a_detector_in_two_stages_waits_twice(name: str) -> None:
    """For the rounds of suppression, which may take a second look, and for how many boxes were drawn."""
    torch.manual_seed(0)
    model, images = create_model(name, 3).train().cuda(), torch.randn(4, 3, 128, 128, device="cuda")
    boxes = torch.tensor([[10.0, 20, 60, 90], [50, 40, 120, 100]])
    masks = torch.zeros(2, 128, 128, dtype=torch.bool)
    masks[0, 20:90, 10:60] = masks[1, 40:100, 50:120] = True
    facts = (torch.tensor([0, 2]), masks, torch.ones(128, 128, dtype=torch.bool), boxes)
    segments = [Segments(*(fact.cuda() for fact in facts)) for _ in images]
    guide = SegmentTargets(segments, torch.zeros(4, 128, 128, dtype=torch.uint8, device="cuda"))
    loss = DetectionLoss().cuda()
    with waits() as lines:
        output = model(images, guide=guide)
        torch.stack([loss(stage.training) for stage in (output, *output.auxiliary)]).sum().backward()
    assert len(lines()) <= 3, lines()

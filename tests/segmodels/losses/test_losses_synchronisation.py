"""A step's losses neither wait for a GPU nor send it anything.

Tensors of the device ``meta`` have no values: whatever asks for one fails, as whatever would wait for a GPU does.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from segmodels.losses import create_loss, distribution
from segmodels.losses.base import LogitsLoss
from segmodels.losses.points import PointsLoss
from segmodels.losses.registry import LOSSES
from segmodels.models.registry import create_model

BY_DESIGN = {"border_weighted_cross_entropy", "boundary", "distance_penalized_cross_entropy", "hausdorff"}
"""Distances are computed on the CPU."""

NAMES = sorted(
    name
    for name in LOSSES.names()
    if isinstance(LOSSES[name].build, type) and issubclass(LOSSES[name].build, LogitsLoss) and name not in BY_DESIGN
)


class NothingTravels(TorchFunctionMode):
    """Fails where a tensor of the CPU, or one made of Python's numbers, goes to the device: the host would wait."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "meta":
            sources = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            made = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
            assert not made, f"{func} makes a tensor on the device of Python's numbers"
            assert all(one.device.type == "meta" or one.dim() == 0 for one in sources), f"{func} takes the CPU's"
        return result


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # not there for this device
    return torch.device("meta")


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_of_logits_does_not_wait_for_the_device(name: str, device: torch.device) -> None:
    classes, side = 2 if name == "lovasz_hinge" else 4, 192 if name == "ms_ssim" else 16
    loss = create_loss({name: 1.0}, class_weights=torch.ones(classes)).to(device)
    logits = torch.randn(2, classes, side, side, device=device, requires_grad=True)
    target = torch.zeros(2, side, side, dtype=torch.uint8, device=device)
    with NothingTravels():
        loss(logits, target).backward()


def test_a_step_of_pointrend_does_not_wait_for_the_device(device: torch.device) -> None:
    with device:
        model = create_model("pointrend_r50", 3)
        target = torch.zeros(2, 64, 64, dtype=torch.uint8)
        images = torch.randn(2, 3, 64, 64)
    points, whole = PointsLoss(), create_loss({"cross_entropy": 1.0})
    with NothingTravels():
        output = model(images)
        (whole(output.logits, target) + points(output.extras["points"], target)).backward()


@pytest.mark.parametrize("ignored", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize(
    "config", [{"top_k": {"k": 10.0}}, {"top_k": {"k": 0.01}}, {"ohem": 1.0}, {"ohem": {"min_kept": 0.5}}]
)
def test_what_does_not_wait_gives_the_numbers_of_the_cpu(
    config: dict[str, Any], scale: float, ignored: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 4, (2, 24, 24))
    logits = torch.randn(2, 4, 24, 24) + scale * torch.nn.functional.one_hot(target, 4).movedim(-1, 1)
    target[torch.rand(target.shape) < ignored] = 255
    logits.requires_grad_()
    loss = create_loss(config)
    expected = loss(logits, target)
    (gradient,) = torch.autograd.grad(expected, logits)
    monkeypatch.setattr(distribution, "_on_cpu", lambda _: False)
    found = loss(logits, target)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient, atol=1e-8, rtol=1e-5)

"""The losses of logits under test, and small inputs for them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from segmodels.losses import WeightedSum, create_loss, list_losses, loss_class
from segmodels.losses.base import LogitsLoss


class Case(NamedTuple):
    name: str
    options: dict[str, Any]
    classes: int = 4

    def build(self, **extra: Any) -> WeightedSum:
        return create_loss({self.name: self.options | extra})

    @property
    def id(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


NEEDED: dict[str, dict[str, Any]] = {
    "weighted_cross_entropy": {"class_weights": [0.5, 1.0, 2.0, 4.0]},
    "ms_ssim": {"scales": 2, "window": 3},
}
PLAIN = [
    Case(name, NEEDED.get(name, {}), 2 if name == "lovasz_hinge" else 4)
    for name in list_losses()
    if issubclass(loss_class(name), LogitsLoss)
]
VARIANTS = [
    Case("cross_entropy", {"label_smoothing": 0.1}),
    Case("cross_entropy", {"class_weights": [0.5, 1.0, 2.0, 4.0], "normalize": "pixels"}),
    Case("binary_cross_entropy", {"class_weights": [0.5, 1.0, 2.0, 4.0]}),
    Case("focal", {"gamma": 0.5}),
    Case("focal", {"activation": "sigmoid", "alpha": 0.25}),
    Case("focal", {"class_weights": [0.5, 1.0, 2.0, 4.0]}),
    Case("dice", {"squared": True}),
    Case("dice", {"per_image": True}),
    Case("dice", {"reduction": "micro"}),
    Case("dice", {"smooth": 0.0, "include_background": False}),
    Case("focal_tversky", {"exponent": 2.0}),
    Case("generalized_dice", {"per_image": True}),
    Case("sensitivity_specificity", {"reduction": "micro", "per_image": True}),
    Case("lovasz_softmax", {"per_image": True}),
    Case("lovasz_hinge", {"per_image": True}, 2),
    Case("boundary", {"include_background": True}),
    Case("boundary", {"reduction": "micro"}),
    Case("hausdorff", {"reduction": "micro", "alpha": 1.0}),
]
CASES = PLAIN + VARIANTS


def regions(seed: int, classes: int, shape: tuple[int, ...] = (2, 12, 16)) -> Tensor:
    """Labels ``(B, *spatial)`` in blocks, every class in every image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.stack([torch.randperm(16, generator=generator) % classes for _ in range(shape[0])])
    if len(shape) == 3:
        return coarse.view(-1, 4, 4).repeat_interleave(shape[1] // 4, 1).repeat_interleave(shape[2] // 4, 2)
    blocks = coarse.view(-1, 2, 2, 4)
    for axis in (1, 2, 3):
        blocks = blocks.repeat_interleave(shape[axis] // blocks.shape[axis], axis)
    return blocks


def scores(seed: int, target: Tensor, classes: int, right: float = 1.0) -> Tensor:
    """Logits ``(B, C, *spatial)``: noise, plus ``right`` for the true class."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(target), classes, *target.shape[1:], generator=generator)
    return noise + right * one_hot(target.clamp(0, classes - 1), classes)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """``(B, *spatial)`` -> float ``(B, C, *spatial)``."""
    return torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()


def perfect_scores(target: Tensor, classes: int) -> Tensor:
    """Logits 60 for the true class and -60 for the others: certain by softmax and by sigmoid."""
    return 120 * one_hot(target, classes) - 60


def value_and_gradient(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad

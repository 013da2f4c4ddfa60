"""Losses that measure how far predicted and true contours are apart, by distance maps made outside autograd.

Train them beside a region loss or cross-entropy: alone they are unstable. Distances are in pixels, of each image by
itself; ignored pixels lie on no side of a contour. ``reduction="macro"`` (default) is the mean over pixels per image
and class, then over the classes present in the image, then over images; ``"micro"`` the mean over all pixels and
classes, as the papers write.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import LogitsLoss, choice, class_sums, mean_present
from segmodels.losses.distance import class_distances
from segmodels.losses.registry import LossCard, register_loss


class ContourLoss(LogitsLoss):
    """Base: reductions; subclasses give the loss of each pixel for each class.

    Args:
        reduction: ``macro`` or ``micro``.
        include_background: count class 0 too.
    """

    def __init__(self, reduction: str = "macro", include_background: bool = True, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        self.reduction = choice("reduction", reduction, ("macro", "micro"))
        self.include_background = include_background

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        values = self.pixel_losses(logits.softmax(dim=1), labels, valid).flatten(2).sum(dim=2)
        pixels = class_sums(valid.flatten(1), labels.flatten(1), logits.shape[1])
        totals, present = pixels.sum(dim=1, keepdim=True), pixels > 0
        if not self.include_background:
            values, present = values[:, 1:], present[:, 1:]
        if self.reduction == "micro":
            return values.sum() / (totals.sum() * values.shape[1]).clamp(min=1).to(logits.dtype)
        return mean_present(values / totals.clamp(min=1).to(logits.dtype), present)

    @abstractmethod
    def pixel_losses(self, probabilities: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """``(B, C, *spatial)``, 0 where ignored."""


@register_loss(
    "boundary",
    LossCard(
        "Kervadec 2019 (1812.07032), the loss L_B",
        "small or thin structures; with dice or generalized_dice, its weight rising over the training",
    ),
)
class BoundaryLoss(ContourLoss):
    """Probability of a class times the signed distance to its true contour.

    The distance is D to the class outside it and -(D - 1) inside it, D then to the nearest pixel of another class, so
    that it is 0 on the class's own rim; 0 everywhere for a class that its image lacks or is full of. Perfect
    predictions are negative.
    """

    def __init__(self, include_background: bool = False, **options: Any) -> None:
        super().__init__(include_background=include_background, **options)

    def pixel_losses(self, probabilities: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        distance, inside = class_distances(labels, valid, probabilities.shape[1])
        distance.scatter_(1, labels[:, None], -(inside - 1).clamp(min=0)[:, None])
        return probabilities * distance.masked_fill_(~valid[:, None], 0).to(probabilities.dtype)


@register_loss(
    "hausdorff",
    LossCard(
        "Karimi 2019 (1904.10030), the loss by distance transforms",
        "the largest distance between contours matters; with dice, after a warm-up",
    ),
)
class HausdorffLoss(ContourLoss):
    """(s - y)² (d_G^α + d_S^α) with d the distance to the contour of the true class and of the predicted one (s above
    0.5).

    Args:
        alpha: exponent of the distances, above 0 and at most 20.
    """

    def __init__(self, alpha: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < alpha <= 20:  # beyond, the power of a distance of 85 pixels is no float32 any more
            raise InputError(f"alpha is {alpha:g}, expected an exponent above 0 and at most 20, such as 2")
        self.alpha = alpha

    def pixel_losses(self, probabilities: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        classes = probabilities.shape[1]
        largest, predicted = probabilities.detach().max(dim=1)
        predicted.masked_fill_(largest <= 0.5, classes)  # no class: one label more
        weights = self._contour_weights(labels, valid, classes)
        weights += self._contour_weights(predicted, valid, classes + 1)[:, :classes]
        truth = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1)
        return (probabilities - truth).square() * weights.masked_fill_(~valid[:, None], 0).to(probabilities.dtype)

    def _contour_weights(self, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
        """d^α ``(B, C, *spatial)``, d the distance of a pixel to the nearest one on the other side of a class's
        contour.
        """
        distance, inside = class_distances(labels, valid, num_classes)
        return distance.scatter_(1, labels[:, None], inside[:, None]).pow_(self.alpha)

"""Losses that compare the predicted distribution of each pixel with its label: cross-entropy, plain and weighted.

All build on the cross-entropy of each pixel, -log s_y, and are means over the valid pixels of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import LogitsLoss, choice, mean_valid, weights_of_classes
from segmodels.losses.distance import class_distances
from segmodels.losses.registry import LossCard, register_loss
from segmodels.losses.soft_labels import soft_label_loss


class PixelLoss(LogitsLoss):
    """Base: cross-entropy of each pixel, with optional class weights.

    Args:
        class_weights: ``(C,)``, factor w_y of a pixel by its label.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | Sequence[float] | None = None, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        self.register_buffer("class_weights", weights_of_classes(class_weights), persistent=False)

    def weights(self, logits: Tensor) -> Tensor | None:
        """Class weights in the type of the logits; raises InputError unless there is one per class."""
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise InputError(
                f"class_weights has {len(self.class_weights)} values, expected {logits.shape[1]}, one per class of the"
                " logits"
            )
        return None if self.class_weights is None else self.class_weights.to(logits)

    def cross_entropy(self, logits: Tensor, labels: Tensor, valid: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """w_y · -log s_y of each pixel ``(B, *spatial)``, 0 where ignored."""
        # reduction="none" because the summing kernels of CUDA are not deterministic
        values = F.cross_entropy(
            logits, labels, weight=self.weights(logits), reduction="none", label_smoothing=label_smoothing
        )
        return torch.where(valid, values, 0)


@register_loss(
    "cross_entropy",
    LossCard(
        "maximum likelihood, per pixel as FCN (Long 2015, 1411.4038)", "the default; alone, or with a region loss"
    ),
)
class CrossEntropyLoss(PixelLoss):
    """Cross-entropy, with optional class weights and label smoothing. Neither applies to soft labels.

    Args:
        class_weights: ``(C,)``.
        normalize: what the sum is divided by: ``weights`` (Σ w_y, a weighted mean, as torch does) or ``pixels`` (their
            number). The same without class weights.
        label_smoothing: share ε of the label spread evenly over all classes (Szegedy 2016, 1512.00567, section 7).
    """

    accepts_soft_labels: ClassVar[bool] = True

    def __init__(
        self,
        class_weights: Tensor | Sequence[float] | None = None,
        normalize: str = "weights",
        label_smoothing: float = 0.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        if not 0 <= label_smoothing <= 1:
            raise InputError(f"label_smoothing is {label_smoothing:g}, expected 0..1")
        self.normalize = choice("normalize", normalize, ("weights", "pixels"))
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        values = self.cross_entropy(logits, labels, valid, self.label_smoothing)
        weights = self.weights(logits)
        if weights is None or self.normalize == "pixels":
            return mean_valid(values, valid)
        return mean_valid(values, valid, weights[labels])

    def soft_term(self, layer: Any, soft_labels: Tensor) -> Tensor | None:
        logits = self.read(layer)
        return None if logits is None else soft_label_loss(logits, soft_labels)


@register_loss(
    "weighted_cross_entropy",
    LossCard(
        "Ronneberger 2015 (1505.04597), eq. 1; weights: segmodels.training.class_weights",
        "rare classes; refuses to run without class weights",
    ),
)
class WeightedCrossEntropyLoss(CrossEntropyLoss):
    """Cross-entropy that insists on class weights, for configurations that must not lose them by mistake."""

    accepts_soft_labels: ClassVar[bool] = False  # which have no class to weigh

    def __init__(self, class_weights: Tensor | Sequence[float] | None = None, **options: Any) -> None:
        if class_weights is None:
            raise InputError(
                "class_weights is not given, expected one number per class: set it or train.class_weights, or use"
                " 'cross_entropy'"
            )
        super().__init__(class_weights, **options)


@register_loss(
    "binary_cross_entropy",
    LossCard(
        "maximum likelihood of one sigmoid per class",
        "classes that should not compete; heads trained one against the rest",
    ),
)
class BinaryCrossEntropyLoss(PixelLoss):
    """Cross-entropy of sigmoid(logit of c) against [y = c], mean over classes and valid pixels."""

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        return mean_valid(
            _one_against_rest(lambda score: -F.logsigmoid(score), logits, labels, self.weights(logits)), valid
        )


@register_loss("focal", LossCard("Lin 2017 (1708.02002), eq. 4 and 5", "many easy pixels drown the hard ones"))
class FocalLoss(PixelLoss):
    """(1 - s_y)^γ · -log s_y, mean over valid pixels.

    Args:
        gamma: γ, at least 0; 0 is cross-entropy.
        alpha: the paper's balance of object (α) and rest (1 - α), 0..1; for ``sigmoid`` only, ``softmax`` has
            ``class_weights``.
        activation: ``softmax`` over the classes, or ``sigmoid``: each class against the rest, mean over classes too.
        class_weights: ``(C,)``, factor of the pixels of each class.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = None,
        activation: str = "softmax",
        class_weights: Tensor | Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        self.activation = choice("activation", activation, ("softmax", "sigmoid"))
        if gamma < 0:
            raise InputError(f"gamma is {gamma:g}, expected at least 0")
        if alpha is not None and (activation == "softmax" or not 0 <= alpha <= 1):
            raise InputError(
                f"alpha is {alpha} with activation {activation!r}, expected 0..1 with 'sigmoid': with 'softmax' give"
                " class_weights"
            )
        self.gamma = gamma
        self.alpha = alpha

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        weights = self.weights(logits)
        if self.activation == "softmax":
            values = self._focal(-F.cross_entropy(logits, labels, reduction="none"))
            return mean_valid(values if weights is None else weights[labels] * values, valid)
        shares = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return mean_valid(
            _one_against_rest(lambda score: self._focal(F.logsigmoid(score)), logits, labels, weights, shares), valid
        )

    def _focal(self, log_probability: Tensor) -> Tensor:
        # the clamp keeps the slope finite at probability 1 when gamma is below 1
        return (-torch.expm1(log_probability)).clamp(min=1e-12) ** self.gamma * -log_probability


@register_loss(
    "top_k",
    LossCard(
        "Wu 2016 (1605.06885), online bootstrapping",
        "noisy or easy majorities: only the worst share of the pixels counts",
    ),
)
class TopKLoss(PixelLoss):
    """Mean cross-entropy of the worst k percent of the valid pixels of the batch, at least one.

    Args:
        k: percent, 0..100.
    """

    def __init__(
        self, k: float = 10.0, class_weights: Tensor | Sequence[float] | None = None, ignore_index: int = 255
    ) -> None:
        super().__init__(class_weights, ignore_index)
        if not 0 < k <= 100:
            raise InputError(f"k is {k:g}, expected a percentage above 0 and up to 100")
        self.k = k

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        values = self.cross_entropy(logits, labels, valid)
        if _on_cpu(values):
            return _mean_of_largest(values, int(int(valid.sum()) * self.k / 100))
        return _mean_of_largest_share(values, valid, self.k / 100)


@register_loss(
    "ohem",
    LossCard(
        "Shrivastava 2016 (1604.03540); per pixel as BiSeNet (1808.00897) trains",
        "real-time nets; pixels already right with some certainty are left out",
    ),
)
class OHEMLoss(PixelLoss):
    """Online hard example mining: mean cross-entropy of the valid pixels with s_y below ``threshold``.

    Args:
        threshold: probability of the true class from which on a pixel counts as easy.
        min_kept: smallest share of the valid pixels to keep, those with the smallest s_y; 0..1.
        class_weights: ``(C,)``, factor of the loss of the pixels that are kept; they do not decide which.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 1 / 16,
        class_weights: Tensor | Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        if not 0 < threshold <= 1 or not 0 <= min_kept <= 1:
            raise InputError(
                f"threshold is {threshold:g} and min_kept {min_kept:g}, expected both in 0..1, threshold above 0"
            )
        self.threshold = threshold
        self.min_kept = min_kept

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        values = self.cross_entropy(logits, labels, valid)
        doubts = values.detach()
        if self.class_weights is not None:
            doubts = torch.where(valid, F.cross_entropy(logits.detach(), labels, reduction="none"), 0)
        worst = doubts.flatten().topk(max(int(doubts.numel() * self.min_kept), 1)).values
        kept = (valid.sum() * self.min_kept).long().clamp(min=1)
        least = worst.take(kept - 1).clamp(max=-math.log(self.threshold))
        return mean_valid(values, valid & (doubts >= least))


@register_loss(
    "distance_penalized_cross_entropy",
    LossCard(
        "Caliva 2019 (1908.03679), the distance map penalty",
        "contours matter: pixels near the boundary weigh up to twice",
    ),
)
class DistancePenalizedCrossEntropyLoss(PixelLoss):
    """Cross-entropy weighted by 1 + (D - d) / D, mean over valid pixels.

    d is the distance of a pixel to the nearest pixel of another class and D the largest d of its class in its image;
    pixels of a class that fills its image weigh 1.
    """

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        weights = _boundary_weights(labels.cpu(), valid.cpu(), logits.shape[1]).to(logits)
        return mean_valid(weights * self.cross_entropy(logits, labels, valid), valid)


def _boundary_weights(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """1 + (D - d) / D of each pixel ``(B, *spatial)``, float32."""
    distance, cells = class_distances(labels, valid, num_classes)[1].flatten(1), labels.flatten(1)
    largest = torch.zeros(len(cells), num_classes).scatter_reduce(1, cells, distance, "amax").gather(1, cells)
    return (1 + (largest - distance) / largest.clamp(min=1)).view_as(labels)


def _one_against_rest(
    loss: Callable[[Tensor], Tensor],
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    shares: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Mean over classes of ``loss(logit)`` for the true class and ``loss(-logit)`` for the others: ``(B, C, *S)`` ->
    ``(B, *S)``.

    ``shares`` are the factors of the true class and of the others.
    """
    index = labels[:, None]
    values = (shares[1] * loss(-logits)).scatter(1, index, shares[0] * loss(logits.gather(1, index)))
    if weights is not None:
        values = weights.view(1, -1, *(1,) * (logits.ndim - 2)) * values
    return values.mean(dim=1)


def _on_cpu(values: Tensor) -> bool:
    """Whether asking for a value costs nothing."""
    return values.device.type == "cpu"


def _mean_of_largest(values: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` largest values, at least one."""
    return values.flatten().topk(max(count, 1), sorted=False).values.mean()


def _mean_of_largest_share(values: Tensor, valid: Tensor, share: float) -> Tensor:
    """Mean of the largest values: ``share`` of the number of valid pixels, at least one. Does not wait for a GPU."""
    largest = values.flatten().topk(max(int(values.numel() * share), 1)).values
    count = (valid.sum() * share).long().clamp(min=1)
    return torch.where(torch.arange(len(largest), device=largest.device) < count, largest, 0).sum() / count

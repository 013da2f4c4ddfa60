"""Losses that compare the predicted region of a class with its true region.

Every one is a ratio of the same soft counts per class: with s the softmax probability and y the label of a pixel,

    TP_c = Σ_{y=c} s_c      FP_c = Σ_{y≠c} s_c      FN_c = Σ_{y=c} (1 - s_c)

``reduction="macro"`` (default) takes the ratio per class, then the mean over the classes present. ``"micro"`` adds the
counts of all classes first, the form of many papers; with softmax ΣFP = ΣFN there, so that Dice, Tversky and
asymmetric similarity all become 1 - mean s_y whatever their weights. The counts are of the whole batch, or of each
image (``per_image=True``). Losses are written as errors / (overlap + errors), which is 1 - score without its
cancellation.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import LogitsLoss, choice, class_sums, mean_present
from segmodels.losses.registry import LossCard, register_loss


class Overlap(NamedTuple):
    """Soft counts ``(G, C)``: a row per image, or one row for the batch."""

    true_positive: Tensor
    false_positive: Tensor
    false_negative: Tensor
    inside: Tensor  # pixels of the class
    outside: Tensor  # valid pixels of other classes


class RegionLoss(LogitsLoss):
    """Base: soft counts and reductions; subclasses give the ratio.

    Args:
        reduction: ``macro`` (per class, mean over the present classes) or ``micro`` (counts of all classes added
            first).
        per_image: counts of each image, then the mean over images; otherwise counts of the batch.
        include_background: count class 0 too.
        smooth: added to the denominator, pixels; for ``1 - (score's numerator + smooth) / (denominator + smooth)``.
    """

    squared = False  # errors s² and (1 - s)² in FP and FN

    def __init__(
        self,
        reduction: str = "macro",
        per_image: bool = False,
        include_background: bool = True,
        smooth: float = 1e-5,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(ignore_index)
        if smooth < 0:
            raise InputError(f"smooth is {smooth:g}, expected at least 0")
        self.reduction = choice("reduction", reduction, ("macro", "micro"))
        self.per_image = per_image
        self.include_background = include_background
        self.smooth = smooth

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        overlap = soft_overlap(logits, labels, valid, self.squared)
        if not self.per_image:
            overlap = Overlap(*(count.sum(dim=0, keepdim=True) for count in overlap))
        if not self.include_background:
            overlap = Overlap(*(count[:, 1:] for count in overlap))
        return self.reduce(overlap).to(logits.dtype)

    def reduce(self, overlap: Overlap) -> Tensor:
        if self.reduction == "micro":
            overlap = Overlap(*(count.sum(dim=1, keepdim=True) for count in overlap))
        return mean_present(self.ratio(overlap), overlap.inside > 0)

    @abstractmethod
    def ratio(self, overlap: Overlap) -> Tensor:
        """Loss of each class ``(G, C)``; only the classes present are used."""


@register_loss(
    "dice",
    LossCard(
        "Milletari 2016 (V-Net, 1606.04797), section 3; plain form Drozdzal 2016 (1608.04117)",
        "few classes, small objects, evaluation by Dice; often with cross_entropy",
    ),
)
class DiceLoss(RegionLoss):
    """1 - (2 TP + smooth) / (2 TP + FP + FN + smooth).

    Args:
        squared: V-Net's denominator Σ s² + Σ y². As Σ s² + Σ y² - 2 Σ s y = Σ (s - y)², it is the same formula with
            squared errors.
    """

    def __init__(self, squared: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.squared = squared

    def ratio(self, overlap: Overlap) -> Tensor:
        errors = overlap.false_positive + overlap.false_negative
        return _ratio(errors, 2 * overlap.true_positive + errors + self.smooth)


@register_loss(
    "iou",
    LossCard(
        "Rahman and Wang 2016 (ISVC, 978-3-319-50835-1_22), the loss L_IoU",
        "evaluation by IoU, a smooth surrogate cheaper than lovasz_softmax",
    ),
)
class IoULoss(RegionLoss):
    """1 - (TP + smooth) / (TP + FP + FN + smooth)."""

    def ratio(self, overlap: Overlap) -> Tensor:
        errors = overlap.false_positive + overlap.false_negative
        return _ratio(errors, overlap.true_positive + errors + self.smooth)


@register_loss(
    "tversky",
    LossCard("Salehi 2017 (1706.05721), the loss T(α, β)", "misses cost more than false alarms, or the reverse"),
)
class TverskyLoss(RegionLoss):
    """1 - (TP + smooth) / (TP + fp_weight FP + fn_weight FN + smooth); the weights are the paper's α and β."""

    def __init__(self, fp_weight: float = 0.3, fn_weight: float = 0.7, **options: Any) -> None:
        super().__init__(**options)
        if min(fp_weight, fn_weight) < 0:
            raise InputError(f"fp_weight is {fp_weight:g} and fn_weight {fn_weight:g}, expected at least 0")
        self.fp_weight = fp_weight
        self.fn_weight = fn_weight

    def ratio(self, overlap: Overlap) -> Tensor:
        errors = self.fp_weight * overlap.false_positive + self.fn_weight * overlap.false_negative
        return _ratio(errors, overlap.true_positive + errors + self.smooth)


@register_loss(
    "focal_tversky",
    LossCard(
        "Abraham and Khan 2018 (1810.07842), the loss FTL",
        "as tversky, with more weight on the classes segmented worst",
    ),
)
class FocalTverskyLoss(TverskyLoss):
    """(Tversky loss of a class)^exponent, the exponent being the paper's 1/γ with γ = 4/3.

    Below a loss of 1e-6 the power is continued by a line through 0, whose slope stays finite.
    """

    def __init__(self, exponent: float = 0.75, **options: Any) -> None:
        super().__init__(**options)
        if exponent <= 0:
            raise InputError(f"exponent is {exponent:g}, expected a positive number (the paper's 1/γ, 0.75)")
        self.exponent = exponent

    def ratio(self, overlap: Overlap) -> Tensor:
        loss, smallest = super().ratio(overlap), 1e-6
        return loss.clamp(min=smallest).pow(self.exponent) * (loss / smallest).clamp(max=1)


@register_loss(
    "asymmetric_similarity",
    LossCard("Hashemi 2018 (1803.11078), the loss F_β", "recall matters beta times as much as precision: 1 - F_beta"),
)
class AsymmetricSimilarityLoss(RegionLoss):
    """1 - F_β: the Tversky loss with β²/(1+β²) on FN and 1/(1+β²) on FP, so that β > 1 punishes misses."""

    def __init__(self, beta: float = 1.5, **options: Any) -> None:
        super().__init__(**options)
        self.fn_weight = beta**2 / (1 + beta**2)

    def ratio(self, overlap: Overlap) -> Tensor:
        errors = (1 - self.fn_weight) * overlap.false_positive + self.fn_weight * overlap.false_negative
        return _ratio(errors, overlap.true_positive + errors + self.smooth)


@register_loss(
    "sensitivity_specificity",
    LossCard("Brosch 2015 (MICCAI, 978-3-319-24574-4_1), the objective", "lesions that fill a tiny share of the image"),
)
class SensitivitySpecificityLoss(RegionLoss):
    """r · mean squared error inside the class + (1 - r) · mean squared error outside it.

    Args:
        sensitivity_weight: r, the share of the error inside (sensitivity); 0.05 in the paper.
    """

    squared = True

    def __init__(self, sensitivity_weight: float = 0.05, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= sensitivity_weight <= 1:
            raise InputError(f"sensitivity_weight is {sensitivity_weight:g}, expected 0..1")
        self.sensitivity_weight = sensitivity_weight

    def ratio(self, overlap: Overlap) -> Tensor:
        sensitivity = _ratio(overlap.false_negative, overlap.inside + self.smooth)
        specificity = _ratio(overlap.false_positive, overlap.outside + self.smooth)
        return self.sensitivity_weight * sensitivity + (1 - self.sensitivity_weight) * specificity


@register_loss(
    "generalized_dice",
    LossCard(
        "Sudre 2017 (1707.03237), the loss GDL", "classes of very different size: each weighs 1 / its area squared"
    ),
)
class GeneralizedDiceLoss(RegionLoss):
    """1 - 2 Σ_c w_c TP_c / Σ_c w_c (2 TP_c + FP_c + FN_c) with w_c = 1 / (pixels of c)², and 0 for absent classes.

    The weights do the work of a reduction, which this loss therefore lacks; ``smooth`` is added to both sums of the
    score, whose size is 1 / pixels, hence 0 by default.
    """

    def __init__(
        self, per_image: bool = False, include_background: bool = True, smooth: float = 0.0, ignore_index: int = 255
    ) -> None:
        super().__init__(
            per_image=per_image, include_background=include_background, smooth=smooth, ignore_index=ignore_index
        )

    def reduce(self, overlap: Overlap) -> Tensor:
        return mean_present(self.ratio(overlap), (overlap.inside > 0).any(dim=1, keepdim=True))

    def ratio(self, overlap: Overlap) -> Tensor:
        weights = torch.where(overlap.inside > 0, overlap.inside.clamp(min=1) ** -2, 0)
        errors = (weights * (overlap.false_positive + overlap.false_negative)).sum(dim=1, keepdim=True)
        overlaps = (weights * 2 * overlap.true_positive).sum(dim=1, keepdim=True)
        return _ratio(errors, overlaps + errors + self.smooth)


@register_loss(
    "penalty",
    LossCard(
        "Yang 2019 (MIDL, openreview H1lTh8unKN), the loss pGD",
        "as generalized_dice, with false positives and false negatives punished k times more",
    ),
)
class PenaltyLoss(GeneralizedDiceLoss):
    """Generalised Dice with k w (FP + FN) added to its denominator: (1 + k) L / (1 + k L) with L the generalised Dice
    loss.

    Args:
        k: at least 0; 0 is generalised Dice.
    """

    def __init__(self, k: float = 2.5, **options: Any) -> None:
        super().__init__(**options)
        if k < 0:
            raise InputError(f"k is {k:g}, expected at least 0")
        self.k = k

    def ratio(self, overlap: Overlap) -> Tensor:
        loss = super().ratio(overlap)
        return (1 + self.k) * loss / (1 + self.k * loss)


def soft_overlap(logits: Tensor, labels: Tensor, valid: Tensor, squared: bool = False) -> Overlap:
    """Soft counts of each image and class, FP and FN of the errors or of their squares.

    Args:
        logits: ``(B, C, *spatial)``; labels and valid: ``(B, *spatial)``.
    """
    classes = logits.shape[1]
    labels, valid = labels.flatten(1), valid.flatten(1)
    probability, false_positive = _SoftmaxOverlap.apply(logits.flatten(2), labels, valid, squared)
    inside, true_positive = class_sums(valid, labels, classes), class_sums(probability, labels, classes)
    # the sums are so exact that differences of theirs lose nothing that float32 probabilities had
    false_negative = inside - true_positive
    if squared:
        false_negative = false_negative - true_positive + class_sums(probability, labels, classes, squared=True)
    return Overlap(
        true_positive=true_positive,
        false_positive=false_positive.to(inside.dtype),
        false_negative=false_negative,
        inside=inside,
        outside=inside.sum(dim=1, keepdim=True) - inside,
    )


class _SoftmaxOverlap(torch.autograd.Function):
    """Softmax and its reduction in one: only the probabilities are kept, and the gradient is made in one buffer.

    Logits ``(B, C, N)`` -> probability of the true class ``(B, N)``, 0 where ignored, and Σ s (or s²) over the pixels
    of other classes ``(B, C)``.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
        index = labels[:, None]
        others = torch.softmax(logits, dim=1).masked_fill_(~valid[:, None], 0)
        true = others.gather(1, index)
        others.scatter_(1, index, 0)
        ctx.save_for_backward(others, true, index)
        ctx.squared = squared
        return true[:, 0], (others.square() if squared else others).sum(dim=2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, true_gradient: Tensor, others_gradient: Tensor) -> tuple[Tensor, None, None, None]:
        others, true, index = ctx.saved_tensors
        gradient = others * others_gradient[:, :, None]  # s ∂L/∂s of the other classes
        if ctx.squared:
            gradient.mul_(others).mul_(2)
        mean = gradient.sum(dim=1, keepdim=True).addcmul_(true, true_gradient[:, None])
        gradient.addcmul_(others, mean, value=-1)
        gradient.scatter_(1, index, true * (true_gradient[:, None] - mean))
        return gradient, None, None, None


def _ratio(errors: Tensor, total: Tensor) -> Tensor:
    """errors / total, 0 where there is nothing at all."""
    return errors / torch.where(total > 0, total, 1)

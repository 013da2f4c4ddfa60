"""The loss of models that answer prompts (Segment Anything, Kirillov 2023, 2304.02643)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import Images, Loss, check_not_negative, check_share
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import Choices, PromptedOutput
from segmodels.tasks.targets import Segments


@register_loss(
    "prompted_masks",
    LossCard("Kirillov 2023 (2304.02643), section 3 and appendix A", "promptable models; sum it with nothing else"),
)
class PromptedMasksLoss(Loss):
    """Focal and Dice loss of each prompted object's mask, and the squared error of the estimate of its IoU.

    ``loss(answers, segments)`` of one decoder pass, a mean over all objects of the batch. Of several masks for an
    object the one with the smallest focal and Dice loss counts; the qualities of all are learned. Masks of other
    resolutions are resized to the targets'. Ignored pixels do not count. A batch without objects gives 0 with zero
    gradient.

    Args:
        focal_weight, dice_weight, quality_weight: of the three terms.
        alpha, gamma: of the focal loss (Lin 2017).
    """

    reads: ClassVar[str] = "prompted_masks"
    requires: ClassVar[frozenset[str]] = frozenset({"objects"})

    def __init__(
        self,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        quality_weight: float = 1.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        check_not_negative(
            focal_weight=focal_weight, dice_weight=dice_weight, quality_weight=quality_weight, gamma=gamma
        )
        check_share(alpha=alpha)
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.quality_weight = quality_weight
        self.alpha = alpha
        self.gamma = gamma

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        answers = self.read(layer)
        return None if answers is None else self(answers, targets.segments)

    def read(self, layer: Any) -> PromptedOutput | None:
        return layer if isinstance(layer, PromptedOutput) else None

    def forward(self, answers: PromptedOutput, segments: Sequence[Segments]) -> Tensor:
        """Scalar, float32.

        Args:
            segments: of each image, the prompted objects in the order of the prompts.

        Raises:
            InputError: other numbers of masks than of objects.
        """
        found, true = [len(logits) for logits in answers.mask_logits], [len(own.masks) for own in segments]
        if found != true:
            raise InputError(f"images have {found} masks for {true} objects, expected one each: prompt every object")
        choices = answers.choices or [_only(*one) for one in zip(answers.mask_logits, answers.quality, strict=True)]
        with torch.autocast(answers.mask_logits[0].device.type, enabled=False):
            sums = [self._sum(answers, *image) for image in zip(choices, segments, strict=True)]
        return torch.stack(sums).sum() / max(sum(true), 1)

    def _sum(self, answers: PromptedOutput, choices: Choices, segments: Segments) -> Tensor:
        """Over the objects of one image."""
        if not len(choices.mask_logits):
            # 0, and a gradient for every parameter
            return choices.mask_logits.float().sum() + choices.quality.float().sum()
        height, width = segments.valid.shape
        logits = answers.at(choices.mask_logits, (height, width)).flatten(2)  # (N, M, pixels)
        valid = segments.valid.flatten().to(logits)
        masks = (segments.masks.flatten(1).to(logits) * valid)[:, None]
        focal = self.alpha * masks * self._focal(logits) + (1 - self.alpha) * (valid - masks) * self._focal(-logits)
        inside = logits.sigmoid() * valid
        dice = 1 - (2 * (inside * masks).sum(dim=2) + 1) / (inside.sum(dim=2) + masks.sum(dim=2) + 1)
        error = (choices.quality.float() - _iou((logits > 0) * valid, masks)).square()
        of_mask = self.focal_weight * focal.sum(dim=2) / valid.sum().clamp(min=1) + self.dice_weight * dice
        best = of_mask.detach().masked_fill(~choices.allowed, float("inf")).argmin(dim=1, keepdim=True)
        estimates = (error * choices.allowed).sum(dim=1) / choices.allowed.sum(dim=1)
        return (of_mask.gather(1, best)[:, 0] + self.quality_weight * estimates).sum()

    def _focal(self, logits: Tensor) -> Tensor:
        """Focal loss of pixels whose truth is 1."""
        return (-logits).sigmoid() ** self.gamma * F.softplus(-logits)


def _only(mask_logits: Tensor, quality: Tensor) -> Choices:
    """One mask for each object, and no other choice."""
    return Choices(mask_logits[:, None], quality[:, None], torch.ones_like(quality[:, None], dtype=torch.bool))


def _iou(predicted: Tensor, masks: Tensor) -> Tensor:
    """IoU of each pair of masks ``(..., pixels)`` of 0 and 1."""
    overlap = (predicted * masks).sum(dim=-1)
    return overlap / (predicted.sum(dim=-1) + masks.sum(dim=-1) - overlap).clamp(min=1)

"""The loss of models that answer prompts (Segment Anything, Kirillov 2023, 2304.02643)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses.base import Images, Loss
from segmodels.losses.registry import LossCard, register_loss
from segmodels.object_reading import resize_logits
from segmodels.outputs import PromptedOutput
from segmodels.tasks.targets import Segments


@register_loss(
    "prompted_masks",
    LossCard("Kirillov 2023 (2304.02643), section 3 and appendix A", "promptable models; sum it with nothing else"),
)
class PromptedMasksLoss(Loss):
    """Focal and Dice loss of each prompted object's mask, and the squared error of the estimate of its IoU.

    ``loss(answers, segments)`` of one decoder pass, a mean over all objects of the batch. Masks of other resolutions
    are resized to the targets'. Ignored pixels do not count. A batch without objects gives 0 with zero gradient.

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
        with torch.autocast(answers.mask_logits[0].device.type, enabled=False):
            sums = [self._sum(*image) for image in zip(answers.mask_logits, answers.quality, segments, strict=True)]
        return torch.stack(sums).sum() / max(sum(true), 1)

    def _sum(self, mask_logits: Tensor, quality: Tensor, segments: Segments) -> Tensor:
        """Over the objects of one image."""
        if not len(mask_logits):
            return mask_logits.float().sum() + quality.float().sum()  # 0, and a gradient for every parameter
        height, width = segments.valid.shape
        logits = resize_logits(mask_logits, (height, width)).flatten(1)
        valid = segments.valid.flatten().to(logits)
        masks = segments.masks.flatten(1).to(logits) * valid
        focal = self.alpha * masks * self._focal(logits) + (1 - self.alpha) * (valid - masks) * self._focal(-logits)
        inside = logits.sigmoid() * valid
        dice = 1 - (2 * (inside * masks).sum(dim=1) + 1) / (inside.sum(dim=1) + masks.sum(dim=1) + 1)
        error = (quality.float() - _iou((logits > 0) * valid, masks)).square()
        terms = (
            self.focal_weight * focal.sum(dim=1) / valid.sum().clamp(min=1)
            + self.dice_weight * dice
            + self.quality_weight * error
        )
        return terms.sum()

    def _focal(self, logits: Tensor) -> Tensor:
        """Of pixels whose truth is 1."""
        return (-logits).sigmoid() ** self.gamma * F.softplus(-logits)


def _iou(predicted: Tensor, masks: Tensor) -> Tensor:
    """Of each pair of masks ``(N, pixels)`` of 0 and 1."""
    overlap = (predicted * masks).sum(dim=1)
    return overlap / (predicted.sum(dim=1) + masks.sum(dim=1) - overlap).clamp(min=1)

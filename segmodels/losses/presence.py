"""Which classes an image shows: the semantic encoding loss of EncNet."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.losses.base import Loss
from segmodels.losses.registry import LossCard, register_loss


@register_loss(
    "presence",
    LossCard(
        "Zhang 2018 (1803.08904), SE-loss, section 3.1",
        "EncNet, which includes it automatically at weight 0.2",
    ),
)
class PresenceLoss(Loss):
    """Binary cross-entropy of every class: does the image show it at all? Small and large objects count alike.

    Images whose pixels are all ignored do not count.
    """

    reads: ClassVar[str] = "presence"

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar, mean over classes and images.

        Args:
            logits: raw ``(B, C)``.
            target: train ids ``(B, *spatial)``.

        Raises:
            InputError: another number of images than of logits.
        """
        if logits.ndim != 2 or len(logits) != len(target):
            raise InputError(
                f"presence logits have shape {tuple(logits.shape)} for {len(target)} targets, expected"
                f" ({len(target)}, C)"
            )
        present, known = present_classes(target, logits.shape[1], self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            values = F.binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none").mean(dim=1)
            return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)


@register_loss(
    "object_presence",
    LossCard(
        "Huang 2020 (2004.08790), section 2.4",
        "UNet 3+ with its classification-guided module, which includes it automatically at weight 1",
    ),
)
class ObjectPresenceLoss(Loss):
    """Cross-entropy of two classes of images: those that show nothing but class 0, the background, and those that show
    an object.

    Ignored pixels show nothing; images whose pixels are all ignored do not count.
    """

    reads: ClassVar[str] = "object_presence"

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar, mean over the images.

        Args:
            logits: raw ``(B, 2)``.
            target: train ids ``(B, *spatial)``.

        Raises:
            InputError: another number of classes of images, or of images.
        """
        if logits.shape != (len(target), 2):
            raise InputError(
                f"image logits have shape {tuple(logits.shape)}, expected ({len(target)}, 2): an image shows an object,"
                " or none"
            )
        labels = target.flatten(1).long()
        labels = labels.masked_fill(labels == self.ignore_index, -1)
        largest = labels.amax(dim=1)
        with torch.autocast(logits.device.type, enabled=False):
            values = F.cross_entropy(logits.float(), (largest > 0).long(), reduction="none")
            return torch.where(largest >= 0, values, 0).sum() / (largest >= 0).sum().clamp(min=1)


def present_classes(target: Tensor, num_classes: int, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Of train ids ``(B, *spatial)``: the classes that each image shows, bool ``(B, C)``, and whether it has a pixel
    that is not ignored, bool ``(B,)``.
    """
    labels = target.flatten(1).long()
    labels = labels.masked_fill(labels == ignore_index, num_classes)
    present = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device).scatter_(
        1, labels, True
    )[:, :num_classes]
    return present, present.any(dim=1)

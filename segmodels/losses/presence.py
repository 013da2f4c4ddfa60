"""Which classes an image shows: the semantic encoding loss of EncNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.losses.registry import LossCard, register_loss


@register_loss(
    "presence",
    LossCard("Zhang 2018 (1803.08904), SE-loss, section 3.1", "EncNet, which has it at weight 0.2 by itself", inputs="presence_logits"),
)
class PresenceLoss(nn.Module):
    """Binary cross-entropy of every class: does the image show it at all? Small and large objects count alike.

    An image of ignored pixels alone says nothing about its classes and counts nowhere.
    """

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
            raise InputError(f"presence logits have shape {tuple(logits.shape)} for {len(target)} targets, expected ({len(target)}, C)")
        present, known = present_classes(target, logits.shape[1], self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            values = F.binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none").mean(dim=1)
            return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)


def present_classes(target: Tensor, num_classes: int, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Of train ids ``(B, *spatial)``: the classes that each image shows, bool ``(B, C)``, and whether it has a pixel that is not ignored, bool ``(B,)``."""
    labels = target.flatten(1).long()
    labels = labels.masked_fill(labels == ignore_index, num_classes)
    present = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device).scatter_(1, labels, True)[:, :num_classes]
    return present, present.any(dim=1)

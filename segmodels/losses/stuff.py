"""The loss of models that tell classes of stuff apart and take all things for one class (panoptic FPN)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segmodels.losses.base import Loss
from segmodels.losses.distribution import CrossEntropyLoss
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import StuffPrediction


@register_loss(
    "stuff",
    LossCard("Kirillov 2019 (1901.02446), section 3.1", "panoptic FPN, which includes it automatically"),
)
class StuffLoss(Loss):
    """Cross-entropy of stuff, with all things as one further class. Ignored pixels do not count."""

    reads: ClassVar[str] = "stuff"

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.cross_entropy = CrossEntropyLoss(ignore_index=ignore_index)

    def forward(self, prediction: StuffPrediction, target: Tensor) -> Tensor:
        """Scalar; ``target`` holds train ids ``(B, H, W)``."""
        labels = target.long()
        ignored = labels == self.ignore_index
        places = prediction.places[labels.masked_fill(ignored, 0)]
        return self.cross_entropy(prediction.logits, torch.where(ignored, self.ignore_index, places))

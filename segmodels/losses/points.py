"""The loss of points that a model chose, not of all pixels (PointRend)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from segmodels.losses.base import Loss
from segmodels.losses.distribution import CrossEntropyLoss
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import PointPrediction


@register_loss(
    "points",
    LossCard(
        "Kirillov 2020 (1912.08193), section 3.3",
        "PointRend, HTC and DetectoRS, which include it automatically at weight 1",
    ),
)
class PointsLoss(Loss):
    """Cross-entropy of the points' logits and the labels of the pixels that they lie on. Points on ignored pixels do
    not count.

    Args:
        class_weights: as of ``cross_entropy``.
    """

    reads: ClassVar[str] = "points"

    def __init__(self, class_weights: Tensor | Sequence[float] | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.cross_entropy = CrossEntropyLoss(class_weights, ignore_index=ignore_index)

    def forward(self, points: PointPrediction, target: Tensor) -> Tensor:
        """Scalar; ``target`` holds train ids ``(B, H, W)``."""
        labels = target.flatten(1).gather(1, points.pixels(*target.shape[1:]))
        return self.cross_entropy(points.logits[..., None], labels[..., None])

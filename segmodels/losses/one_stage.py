"""The loss of detectors in one stage whose masks are sums of prototypes (YOLACT, Bolya 2019, 1904.02689)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from segmodels.losses.base import check_not_negative
from segmodels.losses.detection import STAGES, DetectionLoss
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import DetectionTraining, Sampled


@register_loss(
    "one_stage_detection",
    LossCard(
        "Bolya 2019 (1904.02689), sections 3.3, 4 and 5",
        "models that detect boxes in one stage (YOLO with masks), which include it automatically",
    ),
)
class OneStageDetectionLoss(DetectionLoss):
    """Cross-entropy of classes, a loss of boxes, and cross-entropy of masks inside the true boxes (the mean of each
    box): sums divided by the number of positive samples; and cross-entropy of the classes of places, the sum of the
    classes, the mean of the places.

    Args:
        box_loss, beta: as of ``detection``.
        class_weight, box_weight, mask_weight, places_weight: of the terms.
    """

    reads: ClassVar[str] = "one_stage_detection"

    def __init__(
        self,
        box_loss: str = "smooth_l1",
        beta: float = 1.0,
        class_weight: float = 1.0,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
        places_weight: float = 1.0,
    ) -> None:
        super().__init__(box_loss, beta, class_weight, box_weight, mask_weight)
        check_not_negative(places_weight=places_weight)
        self.weights["loss_places"] = places_weight

    def parts(self, training: DetectionTraining) -> dict[str, Tensor]:
        classes, count = training.classes, max(len(training.boxes.target), 1)
        with torch.autocast(classes.prediction.device.type, enabled=False):
            masks, inside = _cross_entropy(training.masks)
            places, known = _cross_entropy(training.further["places"])
            of_boxes = masks.sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
            return {
                "loss_classes": functional.cross_entropy(classes.prediction.float(), classes.target, reduction="sum")
                / count,
                "loss_boxes": self._boxes(training.boxes, count, STAGES["boxes"]),
                "loss_masks": of_boxes.sum() / count,
                "loss_places": places.sum() / known[:, 0].sum().clamp(min=1),
            }


def _cross_entropy(samples: Sampled) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each logit, 0 where the target is negative; and where it is not."""
    counts = samples.target >= 0
    values = functional.binary_cross_entropy_with_logits(
        samples.prediction.float(), samples.target.clamp(min=0), reduction="none"
    )
    return values.where(counts, 0.0), counts

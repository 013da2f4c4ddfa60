"""The loss of detectors with masks, in one stage or two (Mask R-CNN, He 2017, 1703.06870): of each stage's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from segmodels.layers.anchors import decode
from segmodels.losses.base import Images, Loss, check_not_negative, choice
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import DetectionTraining, Sampled

STAGES = {"boxes": (10.0, 10.0, 5.0, 5.0), "proposal_boxes": (1.0, 1.0, 1.0, 1.0)}
"""Weights that the boxes of each stage are coded with."""

EPSILON = 1e-7  # pixels, keeps boxes without area finite


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Σ of 1 - GIoU (Rezatofighi 2019, 1902.09630) of pairs of boxes ``(N, 4)``, left, top, right, bottom: scalar."""
    low, high = torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:])
    inter = (high - low).clamp(min=0).prod(dim=1)
    areas = [(own[:, 2:] - own[:, :2]).prod(dim=1) for own in (boxes, targets)]
    union = areas[0] + areas[1] - inter
    low, high = torch.minimum(boxes[:, :2], targets[:, :2]), torch.maximum(boxes[:, 2:], targets[:, 2:])
    hull = (high - low).prod(dim=1)
    return (1 - inter / (union + EPSILON) + (hull - union) / (hull + EPSILON)).sum()


@register_loss(
    "detection",
    LossCard(
        "He 2017 (1703.06870), section 3; Ren 2015 (1506.01497), equation 1",
        "models that detect boxes (Mask R-CNN), which include it automatically",
    ),
)
class DetectionLoss(Loss):
    """Cross-entropy of classes and objectness, a loss of boxes in each stage divided by the number of the stage's
    samples, and cross-entropy of masks and further heads (PointRend's points): a plain sum, as in torchvision. Images
    without objects are all background.

    Args:
        box_loss: ``smooth_l1`` of coded boxes, or ``giou`` of the boxes themselves.
        class_weight, box_weight, mask_weight: of the terms of the last stage.
        beta: distance of coded boxes from which the smooth L1 loss (Girshick 2015, 1504.08083, equation 3) is linear.
    """

    reads: ClassVar[str] = "detection"
    requires: ClassVar[frozenset[str]] = frozenset({"objects"})

    def __init__(
        self,
        box_loss: str = "smooth_l1",
        beta: float = 1 / 9,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        mask_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_not_negative(beta=beta, class_weight=class_weight, box_weight=box_weight, mask_weight=mask_weight)
        self.weights = {"loss_classes": class_weight, "loss_boxes": box_weight, "loss_masks": mask_weight}
        self.box_loss = choice("box_loss", box_loss, ("smooth_l1", "giou"))
        self.beta = beta

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        training = getattr(layer, "training", None)
        return None if training is None else self(training)

    def forward(self, training: DetectionTraining) -> Tensor:
        """Scalar."""
        return torch.stack([self.weights.get(name, 1.0) * value for name, value in self.parts(training).items()]).sum()

    def parts(self, training: DetectionTraining) -> dict[str, Tensor]:
        """The terms, unweighted, by the names of their curves."""
        classes, masks = training.classes, training.masks
        with torch.autocast(classes.prediction.device.type, enabled=False):
            terms = {
                "loss_classes": _mean(functional.cross_entropy, classes),
                "loss_boxes": self._boxes(training.boxes, len(classes.target), STAGES["boxes"]),
                "loss_masks": _mean(functional.binary_cross_entropy_with_logits, masks),
            }
            terms |= {
                f"loss_{name}": _mean(functional.binary_cross_entropy_with_logits, samples)
                for name, samples in training.further.items()
            }
            if training.proposals is not None and training.proposal_boxes is not None:
                count = len(training.proposals.target)
                terms["loss_objectness"] = _mean(functional.binary_cross_entropy_with_logits, training.proposals)
                terms["loss_proposals"] = self._boxes(training.proposal_boxes, count, STAGES["proposal_boxes"])
        return terms

    @torch.no_grad()
    def scores(self, layer: Any, targets: Any) -> dict[str, Tensor]:
        training = getattr(layer, "training", None)
        return {} if training is None else self.parts(training)

    def _boxes(self, boxes: Sampled, count: int, weights: Sequence[float]) -> Tensor:
        prediction, target = boxes.prediction.float(), boxes.target.float()
        if self.box_loss == "giou":  # the same for any size and place of the reference
            unit = prediction.new_tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(prediction), -1)
            total = giou_loss(decode(prediction, unit, weights), decode(target, unit, weights))
        else:
            total = functional.smooth_l1_loss(prediction, target, beta=self.beta, reduction="sum")
        return total / max(count, 1)


def _mean(loss: Any, samples: Sampled) -> Tensor:
    """The mean over the samples; without any, 0 with a gradient for what predicted them."""
    prediction = samples.prediction.float()
    return loss(prediction, samples.target) if len(prediction) else prediction.sum()

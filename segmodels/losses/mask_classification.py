"""The loss of models that predict a set of masks, each with one class (MaskFormer, Cheng 2021, 2107.06278)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segmodels.errors import InputError
from segmodels.layers.blocks import resize
from segmodels.losses.base import Images, Loss
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import QueryOutput
from segmodels.tasks.targets import Segments, without_crowds


@register_loss(
    "mask_classification",
    LossCard(
        "Cheng 2021 (2107.06278), the loss L_mask-cls, section 3",
        "models that predict queries (MaskFormer); sum it with nothing else",
    ),
)
class MaskClassificationLoss(Loss):
    """Bipartite matching of queries and segments, then cross-entropy of their classes, focal and Dice loss of their
    masks.

    ``loss(queries, target)`` of one decoder layer, not of logits. The cross-entropy is a mean over all queries weighted
    by class (unmatched ones have the class "no object"), the mask losses are sums over matched pairs divided by the
    number of segments in the batch. Ignored pixels enter neither the matching nor the masks, and an image of nothing
    else says nothing about its queries.

    Args:
        class_weight, focal_weight, dice_weight: of the three losses, and of their forms as matching costs.
        no_object: weight of "no object" in the cross-entropy.
        alpha, gamma: of the focal loss (Lin 2017).
    """

    reads: ClassVar[str] = "queries"

    def __init__(
        self,
        class_weight: float = 1.0,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        no_object: float = 0.1,
        alpha: float = 0.25,
        gamma: float = 2.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.no_object = no_object
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        """Compare with the targets' segments, or with their classes if they have none."""
        queries = self.read(layer)
        return None if queries is None else self(queries, getattr(targets, "segments", targets.classes))

    def read(self, layer: Any) -> QueryOutput | None:
        return layer if isinstance(layer, QueryOutput) else None

    def forward(self, queries: QueryOutput, target: Tensor | Sequence[Segments]) -> Tensor:
        """Scalar.

        Args:
            queries: class logits ``(B, Q, C + 1)``, the last "no object", and mask logits ``(B, Q, h, w)``.
            target: train ids ``(B, H, W)``, each class of an image a segment, or the segments of each image.
        """
        terms = self.parts(queries, target)
        return (
            self.class_weight * terms["class"] + self.focal_weight * terms["focal"] + self.dice_weight * terms["dice"]
        )

    def parts(self, queries: QueryOutput, target: Tensor | Sequence[Segments]) -> dict[str, Tensor]:
        """Unweighted ``class``, ``focal`` and ``dice``."""
        segments = (
            semantic_segments(target, self.ignore_index)
            if isinstance(target, Tensor)
            else [without_crowds(of_image) for of_image in target]
        )
        classes = queries.class_logits.shape[2] - 1
        wrong: list[int] = []
        if not queries.class_logits.is_cuda:  # a GPU would have to be waited for
            wrong = sorted({label for of_image in segments for label in of_image.labels.tolist()} - set(range(classes)))
        if wrong or len(segments) != len(queries.class_logits):
            raise InputError(
                f"target has {len(segments)} images with labels {wrong} out of range, expected"
                f" {len(queries.class_logits)} images with labels 0..{classes - 1}"
            )
        with torch.autocast(queries.mask_logits.device.type, enabled=False):
            classes_of, masks_of = (_full_precision(logits) for logits in (queries.class_logits, queries.mask_logits))
            costs = [self._costs(*each) for each in zip(classes_of, masks_of, segments, strict=True)]
            pairs = _cheapest(costs)
            return {"class": self._class_loss(classes_of, segments, pairs)} | self._mask_losses(
                masks_of, segments, pairs
            )

    @torch.no_grad()
    def _costs(self, class_logits: Tensor, mask_logits: Tensor, segments: Segments) -> Tensor:
        """Cost ``(Q, K)`` of matching each query with each segment, at the resolution of the mask logits."""
        size = mask_logits.shape[1:]
        valid = _nearest(segments.valid[None], size).flatten(1).to(mask_logits)
        masks = _nearest(segments.masks, size).flatten(1).to(mask_logits) * valid
        scores = mask_logits.flatten(1)
        focal = self._focal(scores) * self.alpha @ masks.T + self._focal(-scores) * (1 - self.alpha) @ (valid - masks).T
        probabilities = scores.sigmoid() * valid
        dice = 1 - (2 * probabilities @ masks.T + 1) / (probabilities.sum(dim=1)[:, None] + masks.sum(dim=1) + 1)
        cost = (
            -self.class_weight * class_logits.softmax(dim=1)[:, segments.labels]
            + self.focal_weight * focal / valid.sum().clamp(min=1)
            + self.dice_weight * dice
        )
        # a query that is not finite is matched last instead of stopping the training here
        return cost.nan_to_num(nan=1e30, posinf=1e30, neginf=1e30)

    def _class_loss(
        self, class_logits: Tensor, segments: Sequence[Segments], pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        none = class_logits.shape[2] - 1
        labels = torch.full(class_logits.shape[:2], none, device=class_logits.device)
        for of_image, (matched, order), names in zip(segments, pairs, labels, strict=True):
            names[matched] = of_image.labels[order]
        weights = class_logits.new_ones(none + 1)
        weights[none] = self.no_object
        counted = torch.stack([of_image.valid.any() for of_image in segments])[:, None] * weights[labels]
        values = counted * F.cross_entropy(class_logits.transpose(1, 2), labels, reduction="none")
        return values.sum() / torch.where(counted.sum() > 0, counted.sum(), 1)

    def _mask_losses(
        self, mask_logits: Tensor, segments: Sequence[Segments], pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        matched = torch.cat([logits[rows] for logits, (rows, _) in zip(mask_logits, pairs, strict=True)])
        valid = (
            torch.cat(
                [of_image.valid.expand(len(rows), -1, -1) for of_image, (rows, _) in zip(segments, pairs, strict=True)]
            )
            .flatten(1)
            .to(matched)
        )
        masks = (
            torch.cat([of_image.masks[columns] for of_image, (_, columns) in zip(segments, pairs, strict=True)])
            .flatten(1)
            .to(matched)
            * valid
        )
        if not len(matched):
            return dict.fromkeys(("focal", "dice"), mask_logits.sum() * 0)
        scores = resize(matched[:, None], segments[0].masks.shape[1:]).flatten(1)
        count = max(1, sum(len(of_image.labels) for of_image in segments))
        focal = masks * self.alpha * self._focal(scores) + (valid - masks) * (1 - self.alpha) * self._focal(-scores)
        probabilities = scores.sigmoid() * valid
        dice = 1 - (2 * (probabilities * masks).sum(dim=1) + 1) / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)
        return {"focal": (focal.sum(dim=1) / valid.sum(dim=1).clamp(min=1)).sum() / count, "dice": dice.sum() / count}

    def _focal(self, scores: Tensor) -> Tensor:
        """Focal loss of scores that ought to be positive."""
        return torch.sigmoid(-scores) ** self.gamma * -F.logsigmoid(scores)


def semantic_segments(target: Tensor, ignore_index: int = 255) -> list[Segments]:
    """Each class of an image as one segment: train ids ``(B, H, W)``."""
    segments = []
    for names in target:
        valid = names != ignore_index
        labels = names[valid].unique().long()
        segments.append(Segments(labels, names == labels[:, None, None], valid))
    return segments


def _cheapest(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Rows and columns of the cheapest assignment for each matrix of costs, in one transfer to the CPU and one back."""
    on_cpu = torch.cat([cost.flatten() for cost in costs]).cpu().split([cost.numel() for cost in costs])
    found = [linear_sum_assignment(flat.view(cost.shape).numpy()) for flat, cost in zip(on_cpu, costs, strict=True)]
    ends = torch.from_numpy(np.concatenate([places for pair in found for places in pair])).to(costs[0].device)
    rows_and_columns = ends.split([len(places) for pair in found for places in pair])
    return list(zip(rows_and_columns[::2], rows_and_columns[1::2], strict=True))


def _nearest(masks: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0]


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

"""The loss of models that predict a set of masks, each with one class (MaskFormer, Cheng 2021, 2107.06278)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.layers.blocks import resize
from segmodels.losses.base import Images, Loss
from segmodels.losses.matching import Pairs, Truth, cheapest
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import QueryOutput
from segmodels.tasks.targets import Segments


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

    def terms(self, layers: Sequence[Any], targets: Any, images: Images | None = None) -> list[Tensor | None]:
        """Compare with the targets' segments, or with their classes if they have none."""
        queries = [layer for layer in layers if isinstance(layer, QueryOutput)]
        values = iter(self.of_layers(queries, getattr(targets, "segments", targets.classes)) if queries else [])
        return [next(values) if isinstance(layer, QueryOutput) else None for layer in layers]

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        return self.terms([layer], targets, images)[0]

    def forward(self, queries: QueryOutput, target: Tensor | Sequence[Segments]) -> Tensor:
        """Scalar.

        Args:
            queries: class logits ``(B, Q, C + 1)``, the last "no object", and mask logits ``(B, Q, h, w)``.
            target: train ids ``(B, H, W)``, each class of an image a segment, or the segments of each image.

        Raises:
            InputError: not as many targets as images, or (on the CPU, where it costs no synchronisation) labels outside
                0..C-1.
        """
        return self.of_layers([queries], target)[0]

    def of_layers(self, layers: Sequence[QueryOutput], target: Tensor | Sequence[Segments]) -> list[Tensor]:
        """As ``forward`` for each layer of a decoder, with one wait for the device in all."""
        return [
            self.class_weight * parts["class"] + self.focal_weight * parts["focal"] + self.dice_weight * parts["dice"]
            for parts in self.parts(layers, target)
        ]

    def parts(self, layers: Sequence[QueryOutput], target: Tensor | Sequence[Segments]) -> list[dict[str, Tensor]]:
        """Unweighted ``class``, ``focal`` and ``dice`` of each layer."""
        self._check(layers[0].class_logits, target)
        with torch.autocast(layers[0].mask_logits.device.type, enabled=False):
            logits = [(_full_precision(layer.class_logits), _full_precision(layer.mask_logits)) for layer in layers]
            truth = (
                Truth.of_classes(target, logits[0][0].shape[2] - 1, self.ignore_index)
                if isinstance(target, Tensor)
                else Truth.of_segments(target)
            )
            costs = [self._costs(class_logits, mask_logits, truth) for class_logits, mask_logits in logits]
            return [
                {"class": self._class_loss(class_logits, truth, pairs)} | self._mask_losses(mask_logits, truth, pairs)
                for (class_logits, mask_logits), pairs in zip(logits, cheapest(costs, truth.present), strict=True)
            ]

    def _check(self, class_logits: Tensor, target: Tensor | Sequence[Segments]) -> None:
        images, _, classes = class_logits.shape
        wrong: list[int] = []
        if class_logits.device.type == "cpu":  # a GPU would have to be waited for
            labels = [target[target != self.ignore_index]] if isinstance(target, Tensor) else [s.labels for s in target]
            wrong = sorted({label for own in labels for label in own.unique().tolist()} - set(range(classes - 1)))
        if wrong or len(target) != images:
            raise InputError(
                f"target has {len(target)} images with labels {wrong} out of range, expected {images} images with"
                f" labels 0..{classes - 2}"
            )

    @torch.no_grad()
    def _costs(self, class_logits: Tensor, mask_logits: Tensor, truth: Truth) -> Tensor:
        """Cost ``(B, Q, K)`` of matching each query with each place, at the resolution of the mask logits."""
        masks, valid = truth.at(mask_logits.shape[2:], mask_logits.dtype)
        scores = mask_logits.flatten(2)
        focal = (
            self._focal(scores) * self.alpha @ masks.mT + self._focal(-scores) * (1 - self.alpha) @ (valid - masks).mT
        )
        probabilities = scores.sigmoid() * valid
        covered = probabilities.sum(dim=2)[..., None] + masks.sum(dim=2)[:, None]
        dice = 1 - (2 * probabilities @ masks.mT + 1) / (covered + 1)
        of_class = class_logits.softmax(dim=2).gather(2, truth.labels[:, None].expand(-1, scores.shape[1], -1))
        cost = (
            -self.class_weight * of_class
            + self.focal_weight * focal / valid.sum(dim=2)[..., None].clamp(min=1)
            + self.dice_weight * dice
        )
        # a query that is not finite is matched last instead of stopping the training here
        return cost.nan_to_num(nan=1e30, posinf=1e30, neginf=1e30)

    def _class_loss(self, class_logits: Tensor, truth: Truth, pairs: Pairs) -> Tensor:
        none = class_logits.shape[2] - 1
        # index_put_ (also as a gradient) and assigning one number wait for a GPU, the calls below do not
        labels = torch.full(class_logits.shape[:2], none, device=class_logits.device)
        labels.view(-1).scatter_(0, pairs.prediction, truth.labels[pairs.image, pairs.place])
        weights = class_logits.new_ones(labels.shape).masked_fill_(labels == none, self.no_object)
        counted = truth.valid.flatten(1).any(dim=1)[:, None] * weights
        values = counted * F.cross_entropy(class_logits.transpose(1, 2), labels, reduction="none")
        return values.sum() / torch.where(counted.sum() > 0, counted.sum(), 1)

    def _mask_losses(self, mask_logits: Tensor, truth: Truth, pairs: Pairs) -> dict[str, Tensor]:
        matched = mask_logits.flatten(0, 1).index_select(0, pairs.prediction)
        if not len(matched):
            return dict.fromkeys(("focal", "dice"), mask_logits.sum() * 0)
        places = enumerate(pairs.place.split(pairs.counts))
        valid = truth.valid[pairs.image].flatten(1).to(matched)
        masks = torch.cat([truth.masks_of(image, own) for image, own in places]).flatten(1).to(matched) * valid
        scores = resize(matched[:, None], truth.valid.shape[1:]).flatten(1)
        focal = masks * self.alpha * self._focal(scores) + (valid - masks) * (1 - self.alpha) * self._focal(-scores)
        probabilities = scores.sigmoid() * valid
        dice = 1 - (2 * (probabilities * masks).sum(dim=1) + 1) / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)
        means = {"focal": focal.sum(dim=1) / valid.sum(dim=1).clamp(min=1), "dice": dice}
        return {name: values.sum() / pairs.segments for name, values in means.items()}

    def _focal(self, scores: Tensor) -> Tensor:
        """Focal loss of scores that ought to be positive."""
        return torch.sigmoid(-scores) ** self.gamma * -F.logsigmoid(scores)


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

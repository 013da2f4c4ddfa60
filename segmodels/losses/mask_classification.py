"""The loss of models that predict a set of masks, each with one class (MaskFormer, Cheng 2021, 2107.06278)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from segmodels.errors import InputError
from segmodels.layers.blocks import resize
from segmodels.layers.points import random_points, sample_points, training_points
from segmodels.losses.base import Images, Loss, check_not_negative, check_share
from segmodels.losses.early_gradients import with_gradient
from segmodels.losses.matching import Pairs, Truth, cheapest
from segmodels.losses.registry import LossCard, register_loss
from segmodels.outputs import QueryOutput
from segmodels.tasks.targets import Segments

T = TypeVar("T")
MasksAt = Callable[[Sequence[int], torch.dtype], tuple[Tensor, Tensor]]


@register_loss(
    "mask_classification",
    LossCard(
        "Cheng 2021 (2107.06278), the loss L_mask-cls, section 3; on points Cheng 2022 (2112.01527), section 3.3",
        "models that predict queries (MaskFormer, Mask2Former, K-Net); sum it with nothing else",
    ),
)
class MaskClassificationLoss(Loss):
    """Bipartite matching of queries and segments, then cross-entropy of their classes, and a loss of the pixels and the
    Dice loss of their masks.

    ``loss(queries, target)`` of one decoder layer, not of logits. The cross-entropy is a mean over all queries weighted
    by class (unmatched ones have the class "no object"), the mask losses are sums over matched pairs divided by the
    number of segments in the batch. Ignored pixels enter neither the matching nor the masks, and an image of nothing
    else says nothing about its queries.

    Args:
        class_weight, mask_weight, dice_weight: of the three losses, and of their forms as matching costs.
        no_object: weight of "no object" in the cross-entropy.
        mask_loss: of the masks' pixels: ``focal`` (Lin 2017) or ``bce``, the binary cross-entropy.
        alpha, gamma: of the focal loss.
        points: number of random points that stand for all pixels of a mask (12544 in Mask2Former): for the
            matching at the same points in all masks of an image, for the losses at points of each matched pair, more
            of them where the prediction is uncertain. 0: at all pixels.
        oversampling, importance: k and β of the pairs' points (PointRend, Kirillov 2020, 1912.08193, section 3.1).
    """

    reads: ClassVar[str] = "queries"

    def __init__(
        self,
        class_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        no_object: float = 0.1,
        mask_loss: str = "focal",
        alpha: float = 0.25,
        gamma: float = 2.0,
        points: int = 0,
        oversampling: float = 3.0,
        importance: float = 0.75,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if mask_loss not in ("focal", "bce"):
            raise InputError(f"mask_loss is {mask_loss!r}, expected focal or bce")
        if points != int(points) or points < 0 or oversampling < 1 or not 0 <= importance <= 1:
            raise InputError(
                f"points is {points}, oversampling {oversampling} and importance {importance}, expected a whole number"
                " from 0, a number from 1, and a share from 0 to 1"
            )
        check_not_negative(class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight)
        check_not_negative(no_object=no_object, gamma=gamma)
        check_share(alpha=alpha)
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.no_object = no_object
        self.mask_loss = mask_loss
        self.alpha = alpha
        self.gamma = gamma
        self.points = int(points)
        self.oversampling = oversampling
        self.importance = importance
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
        return self._each(layers, target, self._weighted)

    def parts(self, layers: Sequence[QueryOutput], target: Tensor | Sequence[Segments]) -> list[dict[str, Tensor]]:
        """Unweighted ``class``, ``mask`` and ``dice`` of each layer."""
        return self._each(layers, target, self._parts)

    def _each(
        self, layers: Sequence[QueryOutput], target: Tensor | Sequence[Segments], losses: Callable[..., T]
    ) -> list[T]:
        """``losses`` of each layer's class and mask logits, of the truth and of the matched pairs."""
        self._check(layers[0].class_logits, target)
        with torch.autocast(layers[0].mask_logits.device.type, enabled=False):
            logits = [(_full_precision(layer.class_logits), _full_precision(layer.mask_logits)) for layer in layers]
            truth = (
                Truth.of_classes(target, logits[0][0].shape[2] - 1, self.ignore_index)
                if isinstance(target, Tensor)
                else Truth.of_segments(target)
            )
            masks_at = functools.cache(truth.at)  # the layers' masks have one size
            costs = [self._costs(*layer, truth, masks_at) for layer in logits]
            pairs = cheapest(costs, truth.present)
            return [losses(*layer, truth, matched) for layer, matched in zip(logits, pairs, strict=True)]

    def _weighted(self, class_logits: Tensor, mask_logits: Tensor, truth: Truth, pairs: Pairs) -> Tensor:
        def of_masks(matched: Tensor) -> Tensor:
            mask, dice = self._mask_losses(matched, truth, pairs)
            return self.mask_weight * mask + self.dice_weight * dice

        matched = _matched(mask_logits, pairs)
        return self.class_weight * self._class_loss(class_logits, truth, pairs) + with_gradient(of_masks, matched)

    def _parts(self, class_logits: Tensor, mask_logits: Tensor, truth: Truth, pairs: Pairs) -> dict[str, Tensor]:
        mask, dice = self._mask_losses(_matched(mask_logits, pairs), truth, pairs)
        return {"class": self._class_loss(class_logits, truth, pairs), "mask": mask, "dice": dice}

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
    def _costs(self, class_logits: Tensor, mask_logits: Tensor, truth: Truth, masks_at: MasksAt) -> Tensor:
        """Cost ``(B, Q, K)`` of matching each query with each place, at points or at the resolution of the mask logits,
        where ``masks_at`` is ``Truth.at``.
        """
        if self.points:
            points = random_points(len(mask_logits), self.points, mask_logits.device)
            scores, (masks, valid) = sample_points(mask_logits, points), truth.at_points(points)
        else:
            scores, (masks, valid) = mask_logits.flatten(2), masks_at(mask_logits.shape[2:], mask_logits.dtype)
        inside, outside = self._pixel_losses(scores)
        pixels = inside @ masks.mT + outside @ (valid - masks).mT
        probabilities = scores.sigmoid() * valid
        covered = probabilities.sum(dim=2)[..., None] + masks.sum(dim=2)[:, None]
        dice = 1 - (2 * probabilities @ masks.mT + 1) / (covered + 1)
        of_class = class_logits.softmax(dim=2).gather(2, truth.labels[:, None].expand(-1, scores.shape[1], -1))
        cost = (
            -self.class_weight * of_class
            + self.mask_weight * pixels / valid.sum(dim=2)[..., None].clamp(min=1)
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

    def _mask_losses(self, matched: Tensor, truth: Truth, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The loss of the pixels and the Dice loss of the logits ``(N, h, w)`` of all pairs."""
        if not len(matched):
            return matched.sum(), matched.sum()
        scores, masks, valid = (self._at_points if self.points else self._at_pixels)(matched, truth, pairs)
        pixels = self._losses_of(scores, masks, valid)
        probabilities = scores.sigmoid()  # masks are 0 where valid is
        covered = (probabilities * valid).sum(dim=1) + masks.sum(dim=1)
        dice = 1 - (2 * (probabilities * masks).sum(dim=1) + 1) / (covered + 1)
        mask = pixels.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        return mask.sum() / pairs.segments, dice.sum() / pairs.segments

    def _at_pixels(self, matched: Tensor, truth: Truth, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, masks (0 where ignored) and valid pixels of each matched pair, ``(N, H * W)`` each."""
        places = enumerate(pairs.place.split(pairs.counts))
        valid = truth.valid[pairs.image].flatten(1).to(matched)
        masks = torch.cat([truth.masks_of(image, own) for image, own in places]).flatten(1).to(matched) * valid
        return resize(matched[:, None], truth.valid.shape[1:]).flatten(1), masks, valid

    def _at_points(self, matched: Tensor, truth: Truth, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """As ``_at_pixels`` at points of each pair, ``(N, points)``."""

        def uncertainty(candidates: Tensor) -> Tensor:
            distance = sample_points(matched[:, None], candidates)[:, 0].abs()
            return torch.where(truth.counted(pairs.image, candidates) > 0, -distance, -torch.inf)

        with torch.no_grad():
            points = training_points(
                uncertainty, len(matched), self.points, self.oversampling, self.importance, matched.device
            )
            of_images = zip(pairs.place.split(pairs.counts), points.split(pairs.counts), strict=True)
            valid = truth.counted(pairs.image, points)
            masks = torch.cat([truth.shares(image, *own) for image, own in enumerate(of_images)]) * valid
        return sample_points(matched[:, None], points)[:, 0], masks, valid

    def _losses_of(self, scores: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
        """What ``_pixel_losses`` gives for the true ``masks``, 0..1, with fewer tensors kept for the backward pass."""
        if self.mask_loss == "bce":
            return F.binary_cross_entropy_with_logits(scores, masks, valid, reduction="none")
        if self.points:  # shares of a mask
            inside, outside = self._pixel_losses(scores)
            return masks * inside + (valid - masks) * outside
        # what does not depend on the scores comes first: each step of theirs is one more in the backward pass
        positive = masks > 0
        right = torch.where(positive, 1.0, -1.0) * scores
        weights = torch.where(positive, -self.alpha, self.alpha - 1) * valid
        return torch.sigmoid(-right) ** self.gamma * F.logsigmoid(right) * weights

    def _pixel_losses(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each score where it ought to be positive, and where it ought to be negative."""
        inside, outside = -F.logsigmoid(scores), -F.logsigmoid(-scores)
        if self.mask_loss == "bce":
            return inside, outside
        inside = self.alpha * (torch.sigmoid(-scores) ** self.gamma * inside)
        return inside, (1 - self.alpha) * (torch.sigmoid(scores) ** self.gamma * outside)


def _matched(mask_logits: Tensor, pairs: Pairs) -> Tensor:
    """Logits of the matched queries' masks, ``(N, h, w)``."""
    return mask_logits.flatten(0, 1).index_select(0, pairs.prediction)


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

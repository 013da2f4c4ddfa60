"""Losses of a model's outputs beside its classes: the class of the whole image, and further maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from segmodels.errors import InputError
from segmodels.losses.base import Images, Loss
from segmodels.losses.distribution import CrossEntropyLoss
from segmodels.losses.registry import LossCard, register_loss


@register_loss(
    "image_label",
    LossCard(
        "Mehta 2018 (1806.01313), joint training, section 2.3",
        "Y-Net, which includes it automatically at weight 1; the dataset needs image labels",
    ),
)
class ImageLabelLoss(Loss):
    """Cross-entropy of the classes of whole images; reports the share of images whose class is right, too."""

    reads: ClassVar[str] = "image_label"
    requires: ClassVar[frozenset[str]] = frozenset({"image_label"})
    curve: ClassVar[str | None] = "image_cross_entropy"

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        logits = self.read(layer)
        return None if logits is None else self(logits, self._labels(targets))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar, mean over the images.

        Args:
            logits: raw ``(B, K)``.
            labels: int64 ``(B,)``.
        """
        return functional.cross_entropy(logits.float(), labels)

    def scores(self, layer: Any, targets: Any) -> dict[str, Tensor]:
        logits = self.read(layer)
        if logits is None:
            return {}
        return {"image_accuracy": (logits.argmax(dim=1) == self._labels(targets)).float().mean()}

    def _labels(self, targets: Any) -> Tensor:
        if targets.image_label is None:
            raise InputError(
                "the loss 'image_label' got images without image labels, expected one for every image: add them to the"
                " dataset, or leave the loss out"
            )
        return targets.image_label


@register_loss(
    "further",
    LossCard(
        "Xiao 2018 (1807.10221), section 3.2: the sum of the tasks' losses",
        "UPerNet with several tasks, which includes it automatically at weight 1",
    ),
)
class FurtherLoss(Loss):
    """Sum of the cross-entropies of a model's further heads, each over the pixels that have a label of its kind.

    The head ``scene`` learns the classes of the whole images. A head without labels in the dataset adds 0 times its
    logits, so that its weights get a gradient of 0 instead of none.
    """

    reads: ClassVar[str] = "further"

    def __init__(self) -> None:
        super().__init__()
        self.unsigned = CrossEntropyLoss(ignore_index=255)
        self.signed = CrossEntropyLoss(ignore_index=-1)

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        logits = self.read(layer)
        if logits is None:
            return None
        labels = dict(targets.further)
        if targets.image_label is not None:
            labels["scene"] = targets.image_label
        return self(logits, labels)

    def forward(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Scalar.

        Args:
            logits: raw, by name of the head: ``(B, K, *spatial)``, or ``(B, K)`` of whole images.
            labels: by name, ``(B, *spatial)`` or ``(B,)``: uint8, ignored where 255, or of a signed type, ignored where
                -1. Heads may lack labels.

        Raises:
            InputError: a label outside the classes of its head, or of another shape.
        """
        values = []
        for name, scores in logits.items():
            if name not in labels:
                values.append((scores * 0).sum().float())
                continue
            target = labels[name]
            loss = self.unsigned if target.dtype == torch.uint8 else self.signed
            maps = scores[..., None, None] if scores.ndim == 2 else scores
            try:
                values.append(loss(maps, target[..., None, None] if scores.ndim == 2 else target))
            except InputError as error:
                raise InputError(f"further head {name!r}: {error}") from None
        return torch.stack(values).sum()

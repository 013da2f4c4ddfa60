"""One step of supervised training: raw images in, losses and logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from segmodels.losses import WeightedSum
from segmodels.losses.soft_labels import soft_label_loss
from segmodels.outputs import PixelOutput


class TaskOutput(NamedTuple):
    loss: Tensor  # scalar that is minimised
    terms: dict[str, Tensor]  # what it is made of, unweighted, and other means over the images worth a curve; scalars
    logits: Tensor  # (B, C, H, W)


class Task(nn.Module):
    """A model with its normalisation and what it is trained for.

    Args:
        model: returns a ``PixelOutput``.
        mean, std: per channel, in the units of the images (0..255).

    Attributes:
        objectives: what is minimised in turn, an optimiser step each, on every batch.
        objective: the one whose turn it is.
        share_done: share of the training that is done, 0..1.
    """

    objectives: tuple[str, ...] = ("loss",)

    def __init__(self, model: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.objective = self.objectives[0]
        self.share_done = 0.0
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """What the model takes, for ``images`` uint8 ``(B, 3, H, W)``."""
        return (images.float() - self.mean) / self.std

    def score(self, metrics: Mapping[str, float]) -> float:
        """What the weights to keep are chosen by, the more the better; ``metrics`` are those of a validation."""
        return metrics["val/miou"]

    def matched(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The confusion matrix to score, of the one that was counted."""
        return counts

    def kept(self, model: nn.Module, counts: NDArray[np.int64]) -> dict[str, Tensor]:  # noqa: ARG002  # what a subclass may need
        """Copy on the CPU of the weights of ``model``, which validated with the confusion matrix ``counts``."""
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


class SegmentationTask(Task):
    """Training on labels.

    Args:
        loss: of raw logits and int64 targets.
        auxiliary_weights: weight of each auxiliary output (deep supervision, Lee 2014, 1409.5185), in the model's
            order; outputs beyond the list take its last entry.
        auxiliary_decay: the weights fall linearly to 0 at the end of training (as in Lee 2014).
        image_label_weight: weight of the cross-entropy of ``extras["image_label"]``, where the images have labels
            (joint training, Mehta 2018, 1806.01313).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: WeightedSum,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        auxiliary_weights: Sequence[float] = (0.4,),
        auxiliary_decay: bool = False,
        image_label_weight: float = 1.0,
    ) -> None:
        super().__init__(model, mean=mean, std=std)
        self.loss = loss
        self.auxiliary_weights = tuple(auxiliary_weights)
        self.auxiliary_decay = auxiliary_decay
        self.image_label_weight = image_label_weight

    def forward(
        self, images: Tensor, masks: Tensor, image_labels: Tensor | None = None, soft_labels: Tensor | None = None
    ) -> TaskOutput:
        """Losses and logits of a batch.

        Args:
            images: uint8 ``(B, 3, H, W)``.
            masks: train ids ``(B, H, W)``, any integer type.
            image_labels: classes of the whole images, int64 ``(B,)``, for a model with ``extras["image_label"]``.
            soft_labels: ``(B, C, H, W)``, take the place of the masks in the cross-entropy (self-correction).
        """
        prediction = self.model(self.normalised(images))
        target = masks.long()
        terms = self._terms(prediction, target, soft_labels)
        loss = self._total(terms)
        decay = 1 - self.share_done if self.auxiliary_decay else 1.0
        for index, logits in enumerate(prediction.auxiliary):
            weight = decay * self.auxiliary_weights[min(index, len(self.auxiliary_weights) - 1)]
            if weight:
                loss = loss + weight * self._total(self._terms(logits, target, soft_labels))
        if image_labels is not None and "image_label" in prediction.extras:
            terms["image_cross_entropy"] = functional.cross_entropy(prediction.extras["image_label"], image_labels)
            terms["image_accuracy"] = (prediction.extras["image_label"].argmax(dim=1) == image_labels).float().mean()
            loss = loss + self.image_label_weight * terms["image_cross_entropy"]
        return TaskOutput(loss, terms, prediction.logits)

    def _terms(self, prediction: Tensor | PixelOutput, target: Tensor, soft_labels: Tensor | None) -> dict[str, Tensor]:
        terms = self.loss.terms(prediction, target)
        if soft_labels is not None:
            logits = prediction.logits if isinstance(prediction, PixelOutput) else prediction
            terms["cross_entropy"] = soft_label_loss(logits, soft_labels)
        return terms

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        return sum(
            (self.loss.weights[name] * value.float() for name, value in terms.items()), start=self.mean.new_zeros(())
        )

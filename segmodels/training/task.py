"""One step of supervised training: raw images in, losses and logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segmodels.losses import WeightedSum


class TaskOutput(NamedTuple):
    loss: Tensor  # scalar: weighted sum of the terms, plus the auxiliary heads' share
    terms: dict[str, Tensor]  # each term of the loss, unweighted, of the main output
    logits: Tensor  # (B, C, H, W)


class SegmentationTask(nn.Module):
    """A model with its normalisation and its loss.

    Args:
        model: returns a ``Prediction``.
        loss: of raw logits and int64 targets.
        mean, std: per channel, in the units of the images (0..255).
        auxiliary_weights: weight of each auxiliary output (deep supervision, Lee 2014, 1409.5185), in the model's order;
            outputs beyond the list take its last entry.
    """

    def __init__(
        self, model: nn.Module, loss: WeightedSum, *, mean: Sequence[float], std: Sequence[float], auxiliary_weights: Sequence[float] = (0.4,)
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.auxiliary_weights = tuple(auxiliary_weights)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor, masks: Tensor) -> TaskOutput:
        """``images`` uint8 ``(B, 3, H, W)``, ``masks`` in train ids ``(B, H, W)``, any integer type."""
        prediction = self.model((images.float() - self.mean) / self.std)
        target = masks.long()
        terms = self.loss.terms(prediction, target)
        loss = sum((self.loss.weights[name] * value for name, value in terms.items()), start=prediction.logits.new_zeros((), dtype=torch.float32))
        for index, logits in enumerate(prediction.auxiliary):
            weight = self.auxiliary_weights[min(index, len(self.auxiliary_weights) - 1)]
            if weight:
                loss = loss + weight * self.loss(logits, target)
        return TaskOutput(loss, terms, prediction.logits)

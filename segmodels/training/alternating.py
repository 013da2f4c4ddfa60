"""W-Net without labels: Xia, Kulis: W-Net, arXiv 1711.08506, algorithm 1."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses import WeightedSum
from segmodels.models.wnet import WNet
from segmodels.training.learner import Task, TaskOutput


class UnsupervisedTask(Task):
    """On every batch, a step on the soft normalised cut of the segments (first network only), then one on the error of
    the rebuilt image (both).

    Masks are for the scores alone: the segments found have no names, so those of the validation are matched with the
        classes one to one, such that as
    many pixels as possible agree. The weights to keep are chosen by the loss, without labels; kept, their segments have
    the numbers of their classes.

    Args:
        loss: ``soft_normalized_cut``, of the segments and the images in their own units, and ``reconstruction``, of
            normalised images.
        mean, std: per channel, in the units of the images (0..255).

    Raises:
        InputError: other losses than those two.
    """

    model: WNet
    objectives = ("soft_normalized_cut", "reconstruction")

    def __init__(self, model: WNet, loss: WeightedSum, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(model, mean=mean, std=std)
        if loss.weights.keys() != set(self.objectives):
            expected = ", ".join(f"{name}: 1.0" for name in self.objectives)
            raise InputError(
                f"loss has the terms {', '.join(loss.weights)}, but training without labels takes two in turn: expected"
                f" {{{expected}}}"
            )
        self.loss = loss

    def forward(self, images: Tensor, masks: Tensor) -> TaskOutput:  # noqa: ARG002  # as every task
        """In training the loss of the objective whose turn it is, in evaluation the sum of both; ``images`` uint8 ``(B,
        3, H, W)``.
        """
        inputs = self.normalised(images)
        prediction = self.model(inputs)
        terms = {}
        if not self.training or self.objective == "soft_normalized_cut":
            terms["soft_normalized_cut"] = self.loss.losses["soft_normalized_cut"](prediction.logits, images.float())
        if not self.training or self.objective == "reconstruction":
            rebuilt = prediction.extras["reconstruction"] if self.training else self.model.reconstruct(inputs)
            terms["reconstruction"] = self.loss.losses["reconstruction"](rebuilt, inputs)
        return TaskOutput(
            sum((self.loss.weights[name] * value for name, value in terms.items()), start=self.mean.new_zeros(())),
            terms,
            prediction.logits,
        )

    def score(self, metrics: Mapping[str, float]) -> float:
        return -metrics["val/loss"]

    def matched(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        return counts[:, match_segments(counts)]

    def kept(self, model: torch.nn.Module, counts: NDArray[np.int64]) -> dict[str, Tensor]:
        named = copy.deepcopy(model)
        assert isinstance(named, WNet)
        named.reorder_segments(match_segments(counts).tolist())
        return super().kept(named, counts)


def match_segments(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The segment of each class, every segment once, such that as many pixels as possible agree (Hungarian method).

    Args:
        counts: pixels by class (row) and segment (column), ``(C, C)``.
    """
    _, segments = linear_sum_assignment(counts, maximize=True)
    return segments

"""Optimiser steps: the gradients of batches, accumulated, clipped and applied at the scheduled learning rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segmodels.data.batches import Batch
from segmodels.errors import InputError
from segmodels.training.averages import WeightAverage
from segmodels.training.fabric import Fabric
from segmodels.training.learner import Learner, Losses, Turn
from segmodels.training.state import FitSettings


class Optimisation:
    """Trains a learner's model batch by batch; its arguments are those of ``Fit``.

    Attributes:
        parallel: the learner on the device, its gradients shared by all processes.
        optimizer: as Fabric wraps it for the precision.
    """

    def __init__(
        self,
        fabric: Fabric,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        learning_rate_factor: Callable[[float], float],
        settings: FitSettings,
        average: WeightAverage | None,
    ) -> None:
        self.parallel, self.optimizer = fabric.setup(learner, optimizer)
        self.factor = learning_rate_factor
        self._fabric, self._learner, self._model = fabric, learner, learner.model
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._settings, self._average = settings, average

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first group of parameters at the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train(self, batch: Batch, share_done: float, *, batches: int, step: bool) -> Losses:
        """Add the gradients of a batch, for each objective of the learner; returns the losses, without gradients.

        Args:
            share_done: of the training, 0..1.
            batches: how many the step takes the mean gradient of, this one included.
            step: apply the gradients that have accumulated.

        Raises:
            InputError: a batch of one image, which the model cannot normalise.
        """
        soft_labels = self._soft_labels(batch)
        factor = self.factor(share_done)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for objective in self._learner.objectives:
            with self._fabric.no_backward_sync(self.parallel, enabled=not step):
                output = self._losses(batch, Turn(objective, share_done, soft_labels))
                self._fabric.backward(output.loss if batches == 1 else output.loss / batches)
            if step:
                self._step()
            losses.append(output.loss.detach())
            terms |= output.terms
        return Losses(sum(losses[1:], losses[0]), terms)

    def _losses(self, batch: Batch, turn: Turn) -> Any:
        """``Losses``, whose loss is a tensor in training."""
        try:
            return self.parallel(batch, turn)
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise InputError(  # batch norm of a map that is pooled to one value
                f"the model normalises over the images of a batch, of which this one has {len(batch.images)}: set"
                " train.batch_size to 2 or more, and train on as many images at least"
            ) from None

    def _step(self) -> None:
        if largest := self._settings.gradient_clip:
            self._fabric.clip_gradients(self.parallel, self.optimizer, max_norm=largest, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._average.after_step(self._model)

    def _soft_labels(self, batch: Batch) -> Tensor | None:
        if self._average is None:
            return None
        with self._fabric.autocast():
            return self._average.before_step(batch)

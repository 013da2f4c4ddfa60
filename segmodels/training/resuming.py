"""The state that a stopped or killed training resumes from, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.training.averages import WeightAverage
from segmodels.training.checkpoints import Checkpoints, random_state, set_random_state
from segmodels.training.fabric import Fabric
from segmodels.training.means import total_sums
from segmodels.training.processes import of_all
from segmodels.training.state import Progress


class TrainingState:
    """Progress, best weights, and the states of the model, its average, the optimiser, the precision and the random
    generators.

    Attributes:
        progress: how far the training has come.
        best: the weights that validated best, on the CPU; empty before a validation.
    """

    def __init__(
        self, fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
    ) -> None:
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self._fabric, self._model, self._optimizer, self._average = fabric, model, optimizer, average

    def save(self, checkpoints: Checkpoints) -> None:
        """Hand a copy to ``checkpoints``. All processes call it, the first one saves."""
        sums = total_sums(of_all(self._fabric, self.progress.sums))
        if self._fabric.is_global_zero:
            checkpoints.save(self._content(sums), self.best)

    def resume(self, checkpoints: Checkpoints, warn: Callable[[str], None]) -> None:
        """Take over the newest sound checkpoint; without one the state stays as it is."""
        initial: list[dict[str, Any]] = []

        def restore(content: dict[str, Any], best: dict[str, Tensor]) -> None:
            if not initial:
                initial.append(copy.deepcopy(self._content({})))
            self._restore(content, best)

        if not checkpoints.resume(restore, warn) and initial:
            self._restore(initial[0], {})  # a damaged one was taken over in part

    def _content(self, sums: dict[str, float]) -> dict[str, Any]:
        return {
            "progress": {**asdict(self.progress), "sums": sums},
            "model": self._model.state_dict(),
            "average": self._average.state_dict() if self._average else {},
            "optimizer": self._optimizer.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "random": random_state(),
        }

    def _restore(self, content: dict[str, Any], best: dict[str, Tensor]) -> None:
        self._model.load_state_dict(content["model"])
        if self._average:
            self._average.load_state_dict(content["average"])
        self._optimizer.load_state_dict(content["optimizer"])
        self._fabric.strategy.precision.load_state_dict(content["precision"])
        set_random_state(content["random"])
        self.progress = Progress(**content["progress"])
        if not self._fabric.is_global_zero:
            self.progress.sums = {}  # the first process has those of all
        self.best = best

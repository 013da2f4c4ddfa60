"""Exponential moving average of a model's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segmodels.training.averages import WeightAverage, still_copy


class MovingAverage(WeightAverage):
    """Keeps ``average = decay * average + (1 - decay) * weights`` (Polyak averaging); buffers are copied as they are.

    The decay grows from 0 with the number of updates, min(decay, (1 + n) / (10 + n)), so that the random start is
    forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = still_copy(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in model.parameters()], 1 - decay)
        pairs = list(zip(self.model.buffers(), model.buffers(), strict=True))
        for dtype in {average.dtype for average, _ in pairs}:  # in one kernel each on a GPU
            own, buffers = zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True)
            torch._foreach_copy_(own, buffers)

    def after_step(self, model: nn.Module) -> None:
        self.update(model)

    def stands_in(self, epoch: int) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])

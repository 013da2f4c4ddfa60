"""Averages of a model's weights, as hooks of the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from segmodels.data.batches import Batch


class WeightAverage(ABC):
    """Weights that follow the trained ones and may stand in for them. Epochs are numbered from 0.

    Attributes:
        model: with the averaged weights, in evaluation mode, on the device.
    """

    model: nn.Module

    def before_step(self, batch: Batch) -> Tensor | None:
        """Soft labels ``(B, C, *spatial)`` to train on instead of the targets; None leaves the targets."""
        return None

    def after_step(self, model: nn.Module) -> None:  # noqa: B027  # not every average moves in every step
        """Called after each optimiser step with the trained model."""

    def after_epoch(  # noqa: B027  # nor after every epoch
        self, epoch: int, model: nn.Module, batches: Iterable[Tensor], save: Callable[[], None]
    ) -> None:
        """Called after each epoch, again where a training is resumed after it.

        Args:
            batches: normalised images of the training set, made when they are iterated over; may raise ``Stopped``.
            save: saves the state of the training; before work that is better not repeated.
        """

    @abstractmethod
    def stands_in(self, epoch: int) -> bool:
        """Whether the averaged weights are validated and kept after this epoch, in place of the trained ones."""

    def asks_for_validation(self, epoch: int) -> bool:
        """Whether this epoch is validated whatever ``validate_every`` says."""
        return False

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

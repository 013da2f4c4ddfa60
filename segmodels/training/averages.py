"""Averages of a model's weights, as hooks of the training loop."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from segmodels.data.batches import Batch
from segmodels.errors import InputError, on_one_line


def still_copy(model: nn.Module) -> nn.Module:
    """A copy of the model in evaluation mode that does not learn.

    Raises:
        InputError: the model, a user's own, cannot be copied.
    """
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except (TypeError, RuntimeError) as error:  # of locks and open files; of tensors with a history
        raise InputError(
            "train.ema and train.self_correction average over a copy of the model, which cannot be copied"
            f" ({on_one_line(error)}): leave them out, or give {type(model).__name__} a method __deepcopy__"
        ) from error


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

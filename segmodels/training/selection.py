"""Which weights of a training are kept: those that validate best, if they and their outputs are within bounds. The
newest where no validation image has a score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from segmodels.errors import InputError
from segmodels.finite import all_finite
from segmodels.tasks.registry import settings_to_dict
from segmodels.training.learner import Learner
from segmodels.training.resuming import TrainingState
from segmodels.training.validation import OUTPUT_LIMIT, Validation


class Selection:
    """Keeps the best weights in a training's state.

    Args:
        learner: says which score chooses.
        state: takes the weights, their score and settings, and the number of validations since.
        min_delta: a score counts as better when it is more than this much higher.
        warn: called with a sentence when weights are not kept because they have diverged.
    """

    def __init__(self, learner: Learner, state: TrainingState, min_delta: float, warn: Callable[[str], None]) -> None:
        self._learner, self._state, self._min_delta, self._warn = learner, state, min_delta, warn

    def consider(self, model: nn.Module, metrics: Mapping[str, float], found: Validation) -> None:
        """Keep the weights of ``model`` if they are the best so far.

        Args:
            metrics: of the epoch, with ``learning_rate`` and those of the validation, ``val/...``.
            found: what the model does on the validation images.
        """
        progress, score = self._state.progress, self._learner.score(metrics)
        if math.isnan(score) and not self._state.best:
            name = self._learner.task.metric(next(iter(self._learner.task.headline)), "val")
            self._warn(f"nothing in the validation images defines {name}, which chooses weights: the newest are kept")
        # beside an undefined score every other is better: further training is what was asked for
        undefined = math.isnan(progress.best_score)
        better = not self._state.best or undefined or score > progress.best_score + self._min_delta
        progress.stale += 1
        measured = {name: value for name, value in metrics.items() if name.startswith("val/")}
        if found.within_limit:
            if not better:
                return
            weights = self._learner.kept(model, found.evaluator)
            if all_finite(weights):
                progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch, 0
                progress.best_metrics = measured
                progress.best_settings = settings_to_dict(self._learner.task.chosen(found.evaluator))
                self._state.best = weights
                return
        if not self._state.best:
            progress.best_metrics = measured
        self._warn(
            f"the weights of epoch {progress.epoch + 1} are not kept: they, or their outputs on the validation images,"
            f" are {_excess(measured, metrics['learning_rate'])}"
        )

    def best(self, learning_rate: float) -> dict[str, Tensor]:
        """The weights that are kept, on the CPU.

        Args:
            learning_rate: of the last step, for the error.

        Raises:
            InputError: at every validation the weights or outputs were not finite or beyond ``OUTPUT_LIMIT``.
        """
        progress = self._state.progress
        if not self._state.best:
            raise InputError(
                f"training diverged: no weights of its {progress.stale} validations are kept; those of epoch"
                f" {progress.epoch}, or their outputs, are {_excess(progress.best_metrics, learning_rate)}: lower"
                " train.lr, set train.gradient_clip, or set train.precision to float32"
            )
        return self._state.best


def _excess(metrics: Mapping[str, float], learning_rate: float) -> str:
    loss = f"val/loss {metrics['val/loss']:.3g}, " if "val/loss" in metrics else ""
    return f"not finite or beyond {OUTPUT_LIMIT:g} ({loss}learning rate {learning_rate:g})"

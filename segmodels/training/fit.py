"""The training loop: epochs of optimiser steps, validation after each, checkpoints that resume bit for bit.

Lightning Fabric carries devices, precision and processes. The loop itself is written out so that a training can be
stopped after any optimiser step or during validation, and resumed with the same weights to the last bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.errors import InputError
from segmodels.tasks.base import Evaluator
from segmodels.training.averages import WeightAverage
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.fabric import Fabric
from segmodels.training.feeding import on_device
from segmodels.training.learner import Learner
from segmodels.training.means import LossSums, mean_losses
from segmodels.training.optimisation import Optimisation
from segmodels.training.processes import largest_of_all, of_all
from segmodels.training.resuming import TrainingState
from segmodels.training.selection import Selection
from segmodels.training.state import FitSettings, Progress
from segmodels.training.validation import validate


class TrainingLoader(Protocol):
    """Batches of an epoch, from ``start_batch`` on; which ones depends on the epoch alone. ``close`` ends what makes
    them.
    """

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def close(self) -> None: ...


class Stopped(BaseException):
    """Training was asked to stop (SIGTERM) and has saved its state."""


class Fit:
    """Trains a learner's model and keeps the weights that validate best.

    Args:
        fabric: launched; gives device, precision and processes.
        learner: model, task and losses, on the CPU or the device.
        optimizer: over the model's parameters, each group at its peak learning rate.
        learning_rate_factor: share of training done (0..1) -> factor on the learning rates.
        training: the batches to train on.
        validation: the batches to choose by; annotations have the size of the images.
        settings: how long the training runs, how often it validates and saves.
        average: of the weights, on the CPU or the device; None validates and keeps the trained weights.
        checkpoints: where states are saved; the training resumes from the newest.
        on_batch: called after each batch with the progress and the batches per epoch.
        on_results: called with each batch of a validation and its results.
        on_validation: called after each validation with epoch (0-based) and what it counted.
        on_epoch: called after each validation with epoch (0-based) and metrics.
        stop: polled after each optimiser step and each batch of validation; true saves and raises ``Stopped``.
        warn: called with a sentence when a state is damaged or weights are not kept because they have diverged.
    """

    def __init__(
        self,
        fabric: Fabric,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        learning_rate_factor: Callable[[float], float],
        training: TrainingLoader,
        validation: Iterable[EvaluationBatch],
        *,
        settings: FitSettings,
        checkpoints: Checkpoints,
        average: WeightAverage | None = None,
        on_batch: Callable[[Progress, int], None] = lambda *_: None,
        on_results: Callable[[EvaluationBatch, Sequence[Any]], None] = lambda *_: None,
        on_validation: Callable[[int, Evaluator], None] = lambda *_: None,
        on_epoch: Callable[[int, dict[str, float]], None] = lambda *_: None,
        stop: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.fabric = fabric
        self.learner = learner
        self.model: nn.Module = learner.model
        self.average = average
        self.optimisation = Optimisation(fabric, learner, optimizer, learning_rate_factor, settings, average)
        self.training = training
        self.validation = validation
        self.settings = settings
        self.checkpoints = checkpoints
        self.on_batch = on_batch
        self.on_results = on_results
        self.on_validation = on_validation
        self.on_epoch = on_epoch
        self.stop = stop
        self.warn = warn
        self.state = TrainingState(fabric, self.model, self.optimisation.optimizer, average)
        self.selection = Selection(learner, self.state, settings.min_delta, warn)
        self._saved_at = 0.0
        self._compiled = self.model._compiled_call_impl is not None
        self._cold = {"training", "validation"} if self._compiled or fabric.device.type != "cpu" else set()
        if average:
            average.model.to(fabric.device)

    def run(self) -> dict[str, Tensor]:
        """Train to the end; returns the best weights, on the CPU.

        Raises:
            InputError: the mean loss of an epoch is not finite, at every validation the weights or outputs were not
                finite or beyond ``OUTPUT_LIMIT``, or a batch of one image cannot be normalised.
            Stopped: ``stop`` asked for it; the state is saved.
        """
        self.state.resume(self.checkpoints, self.warn)
        self._saved_at, stopped = time.monotonic(), False
        try:
            self._train()
        except Stopped:
            stopped = True
        finally:
            self.training.close()
            self.checkpoints.wait()
        if self.fabric.world_size > 1:
            self.fabric.barrier()  # no process leaves before the state is written
        if stopped:
            raise Stopped
        return self.selection.best(self.optimisation.learning_rate)

    def _train(self) -> None:
        progress = self.progress
        if self._finished():
            return
        while not self._finished():
            self._train_epoch()
            self._check_losses()
            self._average_epoch()
            if self._validation_due():
                self._validate()
            progress.epoch, progress.batch, progress.epoch_seconds, progress.sums = progress.epoch + 1, 0, 0.0, {}
        self._save()

    def _finished(self) -> bool:
        progress, settings = self.progress, self.settings
        out_of_patience = settings.patience is not None and progress.stale >= settings.patience
        return progress.epoch >= settings.epochs or out_of_patience or self._out_of_time()

    def _out_of_time(self) -> bool:
        return self.settings.minutes is not None and self.progress.seconds >= 60 * self.settings.minutes

    def _validation_due(self) -> bool:
        epochs = self.progress.epoch + 1
        return (
            epochs % self.settings.validate_every == 0
            or epochs == self.settings.epochs
            or self._out_of_time()
            or (self.average is not None and self.average.asks_for_validation(self.progress.epoch))
        )

    # --- one epoch

    def _train_epoch(self) -> None:
        progress, batches = self.progress, len(self.training)
        self.optimisation.parallel.train()
        self.training.set_epoch(progress.epoch, progress.batch)
        sums = LossSums(progress.sums)
        start = time.monotonic()
        if progress.batch < batches:
            for batch in on_device(self.training, self.fabric.device):
                stepped = self._train_batch(batch, sums)
                progress.batch += 1
                seconds = time.monotonic() - start
                progress.epoch_seconds += seconds
                progress.seconds += self._counted("training", seconds)
                self.on_batch(progress, batches)
                if stepped:  # half-accumulated gradients are not saved
                    self._leave_or_save(sums)
                    if self._out_of_time():
                        progress.batch = batches
                        break
                start = time.monotonic()  # saving does not count
        progress.sums = sums.totals()

    def _counted(self, stage: str, seconds: float) -> float:
        """Seconds of a batch that count as training time: none of a process's first batch of each stage where kernels
        are compiled or loaded for it.
        """
        if stage not in self._cold:
            return seconds
        self._cold.remove(stage)
        return 0.0

    def _leave_or_save(self, sums: LossSums) -> None:
        """Save the state if a save is due; raise ``Stopped``, the state saved, if any process was asked to stop."""
        self.checkpoints.check()
        stop, due, self.progress.seconds = largest_of_all(
            self.fabric, self.stop(), self._save_is_due(), self.progress.seconds
        )
        if stop or due:
            self.progress.sums = sums.totals()
            self._save()
        if stop:
            raise Stopped

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= 60 * self.settings.save_minutes

    def _train_batch(self, batch: Batch, sums: LossSums) -> bool:
        """Whether the batch completed an optimiser step."""
        place = self.progress.batch % self.settings.accumulate
        # the last step of an epoch may have fewer batches
        batches = min(self.settings.accumulate, len(self.training) - self.progress.batch + place)
        step = place + 1 == batches
        losses = self.optimisation.train(batch, self._share_done(), batches=batches, step=step)
        self.progress.step += step
        sums.add(losses, len(batch.images))
        return step

    def _share_done(self) -> float:
        per_epoch = -(-len(self.training) // self.settings.accumulate)
        share = self.progress.step / (per_epoch * self.settings.epochs)
        if self.settings.minutes is not None:
            share = max(share, self.progress.seconds / (60 * self.settings.minutes))
        return share

    def _check_losses(self) -> None:
        """Stop a training that has diverged; its last metrics show it."""
        metrics = self._train_metrics()
        loss, rate = metrics.get("train/loss", 0.0), metrics["learning_rate"]
        if math.isfinite(loss):
            return
        self.on_epoch(self.progress.epoch, metrics)
        terms = [name.removeprefix("train/") for name, value in metrics.items() if not math.isfinite(value)]
        raise InputError(
            f"training diverged: the mean train/loss of epoch {self.progress.epoch + 1} is {loss} (not finite:"
            f" {', '.join(terms)}; learning rate {rate:g}); lower train.lr, set train.gradient_clip, or set"
            " train.precision to float32"
        )

    def _train_metrics(self) -> dict[str, float]:
        """Means of this epoch's losses over the images of all processes, learning rate and speed."""
        sums = of_all(self.fabric, self.progress.sums)
        images = sum(own.get("images", 0.0) for own in sums)
        return {
            **mean_losses("train", sums),
            "learning_rate": self.optimisation.learning_rate,
            "images_per_second": images / max(self.progress.epoch_seconds, 1e-9),
        }

    # --- averages of the weights

    def _average_epoch(self) -> None:
        if self.average:
            with self.fabric.autocast(), self._eager():
                self.average.after_epoch(self.progress.epoch, self.model, self._training_images(), self._save)

    def _training_images(self) -> Iterator[Tensor]:
        self.training.set_epoch(self.progress.epoch)
        for batch in on_device(self.training, self.fabric.device):
            if largest_of_all(self.fabric, self.stop())[0]:
                raise Stopped  # ``after_epoch`` has saved
            yield self.learner.normalised(batch.images)

    # --- validation

    @property
    def _candidate(self) -> nn.Module:
        """The weights that are validated, and kept if they are the best."""
        if self.average and self.average.stands_in(self.progress.epoch):
            return self.average.model
        return self.model

    def _validate(self) -> None:
        progress, learner = self.progress, self.learner
        with learner.using(self._candidate), self._eager():
            found = validate(
                self.fabric,
                learner,
                self.validation,
                self._share_done(),
                self._after_validation_batch,
                self.on_results,
            )
        judged = learner.judged(found.evaluator)
        (progress.seconds,) = largest_of_all(self.fabric, progress.seconds)
        metrics = {
            **self._train_metrics(),
            **found.losses,
            **learner.task.headline_metrics(judged.scores(), "val"),
        }
        self.selection.consider(self._candidate, metrics, found)
        self.on_validation(progress.epoch, judged)
        self.on_epoch(progress.epoch, metrics)

    def _after_validation_batch(self, seconds: float) -> None:
        self.progress.seconds += self._counted("validation", seconds)
        # several processes may differ in their number of batches: they stop at the next step
        if self.fabric.world_size == 1 and self.stop():
            self._save()  # all batches of the epoch are done: resuming starts with this validation
            raise Stopped

    def _eager(self) -> AbstractContextManager[None]:
        """Run a compiled model without its graph: only training, whose batches have one size, compiles."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    # --- state

    @property
    def progress(self) -> Progress:
        return self.state.progress

    def _save(self) -> None:
        self.state.save(self.checkpoints)
        self._saved_at = time.monotonic()

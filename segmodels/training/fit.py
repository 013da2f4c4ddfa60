"""The training loop: epochs of optimiser steps, validation after each, a checkpoint that resumes bit for bit.

Lightning Fabric carries devices, precision and processes. The loop itself is written out because a state that can be
left at any batch, during validation too, and taken up again with the same weights to the last bit, is what it is for.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import reduce
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.errors import InputError
from segmodels.finite import all_finite
from segmodels.tasks.base import Evaluator
from segmodels.training.averages import WeightAverage
from segmodels.training.checkpoints import Checkpoints, random_state, set_random_state
from segmodels.training.learner import Learner, Losses, Turn
from segmodels.training.means import add_losses, mean_losses
from segmodels.training.state import FitSettings, Progress


class TrainingLoader(Protocol):
    """Batches of an epoch, from ``start_batch`` on; which ones depends on the epoch alone."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


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
        average: of the weights, on the CPU or the device; None validates and keeps the trained weights.
        checkpoints: where states go; the newest is resumed from.
        on_batch: called after each batch with the progress and the batches per epoch.
        on_epoch: called after each validation with epoch (0-based) and metrics.
        stop: polled after each optimiser step and each batch of validation; true saves and raises ``Stopped``.
        warn: called with a sentence when a damaged state is passed over.
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
        on_epoch: Callable[[int, dict[str, float]], None] = lambda *_: None,
        stop: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.fabric = fabric
        self.learner = learner
        self.model: nn.Module = learner.model
        self.average = average
        self.parallel, self.optimizer = fabric.setup(learner, optimizer)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.factor = learning_rate_factor
        self.training = training
        self.validation = validation
        self.settings = settings
        self.checkpoints = checkpoints
        self.on_batch = on_batch
        self.on_epoch = on_epoch
        self.stop = stop
        self.warn = warn
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        if average:
            average.model.to(fabric.device)

    def run(self) -> dict[str, Tensor]:
        """Train to the end; returns the best weights, on the CPU.

        Raises:
            InputError: the mean loss of an epoch is not finite, or no validation had finite weights and outputs.
            Stopped: ``stop`` asked for it; the state is saved.
        """
        self._resume()
        progress = self.progress
        while progress.epoch < self.settings.epochs and not self._finished():
            self._train_epoch()
            self._check_losses()
            self._average_epoch()
            if self._validation_due():
                self._validate()
            progress.epoch, progress.batch, progress.epoch_seconds, progress.sums = progress.epoch + 1, 0, 0.0, {}
            self._save()
        if not self.best:
            raise InputError(
                f"none of the {progress.stale} validations had finite weights and outputs, so no weights were kept:"
                " lower train.lr, set train.gradient_clip, or set train.precision to float32"
            )
        return self.best

    def _finished(self) -> bool:
        patience = self.settings.patience
        return (patience is not None and self.progress.stale >= patience) or self._out_of_time()

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
        self.parallel.train()
        self.training.set_epoch(progress.epoch, progress.batch)
        sums: dict[str, Tensor] = {}
        start = time.monotonic()
        if progress.batch < batches:
            for batch in self.training:
                stepped = self._train_batch(batch, last=progress.batch + 1 == batches, sums=sums)
                progress.batch += 1
                now = time.monotonic()
                progress.seconds += now - start
                progress.epoch_seconds += now - start
                start = now
                self.on_batch(progress, batches)
                if stepped and self._asked_to_stop():  # between steps: half-accumulated gradients are not saved
                    self._keep_sums(sums)
                    self._save()
                    raise Stopped
                if self._out_of_time():
                    progress.batch = batches
                    break
        self._keep_sums(sums)

    def _train_batch(self, batch: Batch, *, last: bool, sums: dict[str, Tensor]) -> bool:
        """Whether the batch completed an optimiser step."""
        settings, progress = self.settings, self.progress
        batch = self.fabric.to_device(batch)
        soft_labels = self._soft_labels(batch)
        steps_now = last or (progress.batch + 1) % settings.accumulate == 0
        share_done = self._share_done()
        factor = self.factor(share_done)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for objective in self.learner.objectives:
            with self.fabric.no_backward_sync(self.parallel, enabled=not steps_now):
                output = self.parallel(batch, Turn(objective, share_done, soft_labels))
                self.fabric.backward(output.loss / settings.accumulate)
            if steps_now:
                self._step()
            losses.append(output.loss.detach())
            terms |= output.terms
        progress.step += steps_now
        add_losses(sums, Losses(torch.stack(losses).sum(), terms), len(batch.images))
        return steps_now

    def _step(self) -> None:
        if self.settings.gradient_clip:
            self.fabric.clip_gradients(
                self.parallel, self.optimizer, max_norm=self.settings.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.after_step(self.model)

    def _share_done(self) -> float:
        per_epoch = -(-len(self.training) // self.settings.accumulate)
        share = self.progress.step / (per_epoch * self.settings.epochs)
        if self.settings.minutes is not None:
            share = max(share, self.progress.seconds / (60 * self.settings.minutes))
        return share

    def _keep_sums(self, sums: dict[str, Tensor]) -> None:
        """Move the device's running sums into the progress, so that they are saved with it."""
        for name, value in sums.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + float(value)

    def _check_losses(self) -> None:
        """Stop a training that has diverged; its last metrics show it."""
        progress, rate = self.progress, self.optimizer.param_groups[0]["lr"]
        means = mean_losses("train", self._of_all_processes(progress.sums))
        loss = means.get("train/loss", 0.0)
        if math.isfinite(loss):
            return
        self.on_epoch(progress.epoch, {**means, "learning_rate": rate, "images_per_second": self._images_per_second()})
        terms = [name.removeprefix("train/") for name, value in means.items() if not math.isfinite(value)]
        raise InputError(
            f"training diverged: the mean train/loss of epoch {progress.epoch + 1} is {loss} (not finite:"
            f" {', '.join(terms)}; learning rate {rate:g}); lower train.lr, set train.gradient_clip, or set"
            " train.precision to float32"
        )

    # --- averages of the weights

    def _soft_labels(self, batch: Batch) -> Tensor | None:
        if self.average is None:
            return None
        with self.fabric.autocast():
            return self.average.before_step(batch)

    def _average_epoch(self) -> None:
        if self.average:
            with self.fabric.autocast():
                self.average.after_epoch(self.progress.epoch, self.model, self._training_images(), self._save)

    def _training_images(self) -> Iterator[Tensor]:
        self.training.set_epoch(self.progress.epoch)
        for batch in self.training:
            if self._asked_to_stop():
                raise Stopped
            yield self.learner.normalised(self.fabric.to_device(batch.images))

    # --- validation

    @property
    def _candidate(self) -> nn.Module:
        """The weights that are validated, and kept if they are the best."""
        if self.average and self.average.stands_in(self.progress.epoch):
            return self.average.model
        return self.model

    def _validate(self) -> None:
        progress, start = self.progress, time.monotonic()
        with self.learner.using(self._candidate):
            self.learner.eval()
            evaluator, sums, finite = self._measure(start)
        evaluator = reduce(operator.add, self._of_all_processes(evaluator))
        finite = all(self._of_all_processes(finite))
        progress.seconds += time.monotonic() - start
        scores = self.learner.judged(evaluator).scores()
        own_sums = {name: float(value) for name, value in sums.items()}
        metrics = {
            **mean_losses("train", self._of_all_processes(progress.sums)),
            **mean_losses("val", self._of_all_processes(own_sums)),
            **self.learner.task.headline_metrics(scores, "val"),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": self._images_per_second(),
        }
        self._keep_best(metrics, evaluator, finite)
        self.on_epoch(progress.epoch, metrics)

    def _images_per_second(self) -> float:
        """Of this epoch's training."""
        images = self.progress.sums.get("images", 0.0) * self.fabric.world_size
        return images / max(self.progress.epoch_seconds, 1e-9)

    @torch.no_grad()
    def _measure(self, start: float) -> tuple[Evaluator, dict[str, Tensor], bool]:
        """This process's counts, sums of losses, and whether all outputs are finite, over its share of the
        validation.
        """
        task, evaluator = self.learner.task, self.learner.task.evaluator()
        finite = torch.tensor(True, device=self.fabric.device)
        sums: dict[str, Tensor] = {}
        turn = Turn(self.learner.objectives[0], self._share_done())
        for batch in self.validation:
            targets = task.targets(batch.annotations)
            inputs = self.fabric.to_device(Batch(batch.images, targets, torch.tensor(batch.indices)))
            with self.fabric.autocast():
                losses = self.learner(inputs, turn)
            finite &= all_finite(losses.output)
            results = self.learner.results(losses.output, batch._replace(images=inputs.images))
            evaluator.update(results, batch.annotations, batch.ids)
            add_losses(sums, losses, len(batch.ids))
            if (
                self.fabric.world_size == 1 and self.stop()
            ):  # processes may differ in their number of batches: they stop at the next step
                self.progress.seconds += time.monotonic() - start
                self._save()  # all batches of the epoch are done: resuming starts with this validation
                raise Stopped
        return evaluator, sums, bool(finite)

    def _keep_best(self, metrics: dict[str, float], evaluator: Evaluator, finite_outputs: bool) -> None:
        progress, score = self.progress, self.learner.score(metrics)
        threshold = progress.best_score + self.settings.min_delta
        better = not self.best or not (score <= threshold or math.isnan(score))
        progress.stale += 1
        if finite_outputs:
            if not better:
                return
            weights = self.learner.kept(self._candidate, evaluator)
            if all_finite(weights):
                progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch, 0
                progress.best_metrics = {name: value for name, value in metrics.items() if name.startswith("val/")}
                self.best = weights
                return
        self.warn(
            f"the weights of epoch {progress.epoch + 1} are not kept: they, or their outputs on the validation images,"
            " are not finite"
        )

    # --- processes

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked: all must leave at the same batch."""
        if self.fabric.world_size == 1:
            return self.stop()
        asked = torch.tensor(float(self.stop()), device=self.fabric.device)
        torch.distributed.all_reduce(asked)
        return bool(asked > 0)

    def _of_all_processes(self, value: Any) -> list[Any]:
        """The value that each process has, in their order."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    # --- state

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            self.checkpoints.save(self._state())
        if self.fabric.world_size > 1:
            self.fabric.barrier()

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": random_state(),
            "best": self.best,
        }

    def _resume(self) -> None:
        state = self.checkpoints.load_newest(self.warn)
        if state is None:
            return
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        set_random_state(state["random"])
        self.best = state["best"]

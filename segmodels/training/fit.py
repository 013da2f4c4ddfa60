"""The training loop: epochs of optimiser steps, validation after each, a checkpoint that resumes bit for bit.

Lightning Fabric carries devices, precision and processes. The loop itself is written out because a state that can be
left at any batch, during validation too, and taken up again with the same weights to the last bit, is what it is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from segmodels.metrics.confusion import ConfusionMatrix
from segmodels.training.checkpoints import Checkpoints, random_state, set_random_state
from segmodels.training.learner import Task
from segmodels.training.moving_average import MovingAverage
from segmodels.training.self_correction import SelfCorrection
from segmodels.training.state import FitSettings, Progress
from segmodels.training.validation import add_losses, mean_losses, sum_over_processes, validation_scores

Batch = tuple[Tensor, ...]  # images, masks, and what else the task takes


class TrainingLoader(Protocol):
    """Batches ``(images, masks, ...)`` of an epoch, from ``start_batch`` on; which ones depends on the epoch alone."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Any: ...


class Stopped(BaseException):
    """Training was asked to stop (SIGTERM) and has saved its state."""


class Fit:
    """Trains ``task`` and keeps the weights that validate best.

    Args:
        fabric: launched; gives device, precision and processes.
        task: model and what it is trained for, on the CPU or the device.
        optimizer: over ``task.model``'s parameters, at its peak learning rate.
        learning_rate_factor: share of training done (0..1) -> factor on the learning rate.
        training: the batches to train on.
        validation: the batches ``(images, masks, ...)`` to choose by.
        num_classes, ignore_index: of the masks.
        checkpoints: where states go; the newest is taken up.
        on_batch: called after each batch with the progress and the batches per epoch.
        on_epoch: called after each validation with epoch (0-based) and metrics.
        stop: polled after each optimiser step and each batch of validation; true saves and raises ``Stopped``.
    """

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        optimizer: torch.optim.Optimizer,
        learning_rate_factor: Callable[[float], float],
        training: TrainingLoader,
        validation: Iterable[Batch],
        *,
        settings: FitSettings,
        num_classes: int,
        ignore_index: int,
        checkpoints: Checkpoints,
        on_batch: Callable[[Progress, int], None] = lambda *_: None,
        on_epoch: Callable[[int, dict[str, float]], None] = lambda *_: None,
        stop: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.fabric = fabric
        self.task = task
        self.model: nn.Module = task.model
        self.average = MovingAverage(task.model, settings.ema) if settings.ema else None
        self.correction = SelfCorrection(task.model, *settings.self_correction) if settings.self_correction else None
        self.parallel, self.optimizer = fabric.setup(task, optimizer)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.factor = learning_rate_factor
        self.training = training
        self.validation = validation
        self.settings = settings
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.checkpoints = checkpoints
        self.on_batch = on_batch
        self.on_epoch = on_epoch
        self.stop = stop
        self.warn = warn
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        for averaged in (self.average, self.correction):
            if averaged:
                averaged.model.to(fabric.device)

    def run(self) -> dict[str, Tensor]:
        """Train to the end; returns the best weights, on the CPU."""
        self._resume()
        progress = self.progress
        while progress.epoch < self.settings.epochs and not self._finished():
            self._train_epoch()
            self._end_cycle()
            if self._validation_due():
                self._validate()
            progress.epoch, progress.batch, progress.epoch_seconds, progress.sums = progress.epoch + 1, 0, 0.0, {}
            self._save()
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
            or self._cycle_ended()
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
        self.task.share_done = self._share_done()
        factor = self.factor(self.task.share_done)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for objective in self.task.objectives:
            self.task.objective = objective
            with self.fabric.no_backward_sync(self.parallel, enabled=not steps_now):
                output = self.parallel(*batch, **soft_labels)
                self.fabric.backward(output.loss / settings.accumulate)
            if steps_now:
                self._step()
            losses.append(output.loss.detach())
            terms |= output.terms
        progress.step += steps_now
        add_losses(sums, torch.stack(losses).sum(), terms, len(batch[0]))
        return steps_now

    def _step(self) -> None:
        if self.settings.gradient_clip:
            self.fabric.clip_gradients(
                self.parallel, self.optimizer, max_norm=self.settings.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model)

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

    # --- self-correction

    def _soft_labels(self, batch: Batch) -> dict[str, Tensor | None]:
        if self.correction is None:
            return {}
        with self.fabric.autocast():
            return {
                "soft_labels": self.correction.soft_labels(self.task.normalised(batch[0]), batch[1], self.ignore_index)
            }

    def _end_cycle(self) -> None:
        if self.correction and self.correction.is_due(self.progress.epoch + 1):
            self._save()  # a pass over the training set follows: stopped in it, the next run ends the cycle anew
            with self.fabric.autocast():
                self.correction.end_cycle(self.model, self._training_images())

    def _training_images(self) -> Iterator[Tensor]:
        self.training.set_epoch(self.progress.epoch)
        for images, *_ in self.training:
            if self._asked_to_stop():
                raise Stopped
            yield self.task.normalised(self.fabric.to_device(images))

    def _cycle_ended(self) -> bool:
        """Whether the epoch that is done ended a cycle."""
        return self.correction is not None and self.correction.cycle_ends(self.progress.epoch + 1)

    # --- validation

    def _candidate(self) -> nn.Module:
        """The weights that are validated, and kept if they are the best."""
        if self.correction and self._cycle_ended():
            return self.correction.model
        return self.average.model if self.average else self.model

    @torch.no_grad()
    def _validate(self) -> None:
        progress, start = self.progress, time.monotonic()
        matrix = ConfusionMatrix(self.num_classes, self.ignore_index)
        sums: dict[str, Tensor] = {}
        trained = self.task.model
        self.task.model = self._candidate()
        self.task.eval()
        try:
            for batch in self.validation:
                batch = self.fabric.to_device(batch)
                with self.fabric.autocast():
                    output = self.task(*batch)
                matrix.update(output.logits.argmax(1), batch[1])
                add_losses(sums, output.loss, output.terms, len(batch[0]))
                if (
                    self.fabric.world_size == 1 and self.stop()
                ):  # processes may differ in their number of batches: they stop at the next step
                    progress.seconds += time.monotonic() - start
                    self.task.model = trained
                    self._save()  # all batches of the epoch are done: taking it up starts with this validation
                    raise Stopped
        finally:
            self.task.model = trained
        counts = (matrix.all_reduce() if self.fabric.world_size > 1 else matrix).counts
        progress.seconds += time.monotonic() - start
        metrics = {
            **mean_losses(self.fabric, "train", progress.sums),
            **mean_losses(self.fabric, "val", {name: float(value) for name, value in sums.items()}),
            **validation_scores(self.task.matched(counts)),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": (
                progress.sums.get("images", 0.0) * self.fabric.world_size / max(progress.epoch_seconds, 1e-9)
            ),
        }
        self._keep_best(metrics, counts)
        self.on_epoch(progress.epoch, metrics)

    def _keep_best(self, metrics: dict[str, float], counts: NDArray[np.int64]) -> None:
        progress, score = self.progress, self.task.score(metrics)
        if score > progress.best_score + self.settings.min_delta or not self.best:
            progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch, 0
            progress.best_metrics = {name: value for name, value in metrics.items() if name.startswith("val/")}
            self.best = self.task.kept(self._candidate(), counts)
        else:
            progress.stale += 1

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked: all must leave at the same batch."""
        if self.fabric.world_size == 1:
            return self.stop()
        return bool(sum_over_processes(self.fabric, torch.tensor(float(self.stop()))) > 0)

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
            "correction": self.correction.state_dict() if self.correction else {},
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
        if self.correction:
            self.correction.load_state_dict(state["correction"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        set_random_state(state["random"])
        self.best = state["best"]

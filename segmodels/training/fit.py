"""The training loop: epochs of optimiser steps, validation after each, a checkpoint that resumes bit for bit.

Lightning Fabric carries devices, precision and processes. The loop itself is written out because a state that can be left
at any batch, during validation too, and taken up again with the same weights to the last bit, is what it is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from segmodels.metrics.confusion import ConfusionMatrix
from segmodels.metrics.scores import frequency_weighted_iou, mean_iou, mean_pixel_accuracy, pixel_accuracy
from segmodels.training.averaging import MovingAverage
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.task import SegmentationTask


class TrainingLoader(Protocol):
    """Batches ``(images, masks)`` of an epoch, from ``start_batch`` on; which ones depends on the epoch alone."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Any: ...


class Stopped(BaseException):
    """Training was asked to stop (SIGTERM) and has saved its state."""


@dataclass
class Progress:
    """Where training is. Everything that is not a tensor of the model or the optimiser."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps that are done
    seconds: float = 0.0  # spent in training and validation, over all resumptions
    epoch_seconds: float = 0.0  # of this epoch's training
    best_score: float = -1.0
    best_epoch: int = -1
    stale: int = 0  # validations since the best one
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's losses, weighted by images


@dataclass(frozen=True)
class FitSettings:
    """How long and how; see ``TrainParams`` for the meaning and units of each."""

    epochs: int
    accumulate: int = 1
    gradient_clip: float = 0.0
    minutes: float | None = None
    ema: float | None = None
    validate_every: int = 1
    patience: int | None = None
    min_delta: float = 0.0


class Fit:
    """Trains ``task`` and keeps the weights that validate best.

    Args:
        fabric: launched; gives device, precision and processes.
        task: model and loss, on the CPU or the device.
        optimizer: over ``task.model``'s parameters, at its peak learning rate.
        learning_rate_factor: share of training done (0..1) -> factor on the learning rate.
        training: the batches to train on.
        validation: the batches ``(images, masks)`` to choose by.
        num_classes, ignore_index: of the masks.
        checkpoints: where states go; the newest is taken up.
        on_batch: called after each batch with the progress and the batches per epoch.
        on_epoch: called after each validation with epoch (0-based) and metrics.
        stop: polled after each optimiser step and each batch of validation; true saves and raises ``Stopped``.
    """

    def __init__(
        self,
        fabric: Fabric,
        task: SegmentationTask,
        optimizer: torch.optim.Optimizer,
        learning_rate_factor: Callable[[float], float],
        training: TrainingLoader,
        validation: Iterable[tuple[Tensor, Tensor]],
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
        if self.average:
            self.average.model.to(fabric.device)

    def run(self) -> dict[str, Tensor]:
        """Train to the end; returns the best weights, on the CPU."""
        self._resume()
        progress = self.progress
        while progress.epoch < self.settings.epochs and not self._finished():
            self._train_epoch()
            if (progress.epoch + 1) % self.settings.validate_every == 0 or progress.epoch + 1 == self.settings.epochs or self._out_of_time():
                self._validate()
            progress.epoch, progress.batch, progress.epoch_seconds, progress.sums = progress.epoch + 1, 0, 0.0, {}
            self._save()
        return self.best

    def _finished(self) -> bool:
        patience = self.settings.patience
        return (patience is not None and self.progress.stale >= patience) or self._out_of_time()

    def _out_of_time(self) -> bool:
        return self.settings.minutes is not None and self.progress.seconds >= 60 * self.settings.minutes

    # --- one epoch

    def _train_epoch(self) -> None:
        progress, batches = self.progress, len(self.training)
        self.parallel.train()
        self.training.set_epoch(progress.epoch, progress.batch)
        sums: dict[str, Tensor] = {}
        start = time.monotonic()
        if progress.batch < batches:
            for images, masks in self.training:
                stepped = self._train_batch(images, masks, last=progress.batch + 1 == batches, sums=sums)
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

    def _train_batch(self, images: Tensor, masks: Tensor, *, last: bool, sums: dict[str, Tensor]) -> bool:
        """Whether the batch completed an optimiser step."""
        settings, progress = self.settings, self.progress
        images, masks = self.fabric.to_device((images, masks))
        steps_now = last or (progress.batch + 1) % settings.accumulate == 0
        with self.fabric.no_backward_sync(self.parallel, enabled=not steps_now):
            output = self.parallel(images, masks)
            self.fabric.backward(output.loss / settings.accumulate)
        if steps_now:
            factor = self.factor(self._share_done())
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * factor
            if settings.gradient_clip:
                self.fabric.clip_gradients(self.parallel, self.optimizer, max_norm=settings.gradient_clip, error_if_nonfinite=False)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            if self.average:
                self.average.update(self.model)
        _add(sums, output.loss, output.terms, len(images))
        return steps_now

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

    # --- validation

    @torch.no_grad()
    def _validate(self) -> None:
        progress, start = self.progress, time.monotonic()
        matrix = ConfusionMatrix(self.num_classes, self.ignore_index)
        sums: dict[str, Tensor] = {}
        trained = self.task.model
        if self.average:
            self.task.model = self.average.model
        self.task.eval()
        try:
            for images, masks in self.validation:
                images, masks = self.fabric.to_device((images, masks))
                with self.fabric.autocast():
                    output = self.task(images, masks)
                matrix.update(output.logits.argmax(1), masks)
                _add(sums, output.loss, output.terms, len(images))
                if self.fabric.world_size == 1 and self.stop():  # processes may differ in their number of batches: they stop at the next step
                    progress.seconds += time.monotonic() - start
                    self.task.model = trained
                    self._save()  # all batches of the epoch are done: taking it up starts with this validation
                    raise Stopped
        finally:
            self.task.model = trained
        counts = (matrix.all_reduce() if self.fabric.world_size > 1 else matrix).counts
        progress.seconds += time.monotonic() - start
        metrics = {**self._means("train", progress.sums), **self._means("val", {name: float(value) for name, value in sums.items()})}
        metrics |= {
            "val/miou": float(mean_iou(counts)),
            "val/fwiou": float(frequency_weighted_iou(counts)),
            "val/pixel_accuracy": float(pixel_accuracy(counts)),
            "val/mean_pixel_accuracy": float(mean_pixel_accuracy(counts)),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": progress.sums.get("images", 0.0) * self.fabric.world_size / max(progress.epoch_seconds, 1e-9),
        }
        self._keep_best(metrics["val/miou"])
        self.on_epoch(progress.epoch, metrics)

    def _keep_best(self, score: float) -> None:
        progress = self.progress
        if score > progress.best_score + self.settings.min_delta or not self.best:
            progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch, 0
            source = self.average.model if self.average else self.model
            self.best = {name: value.detach().cpu().clone() for name, value in source.state_dict().items()}
        else:
            progress.stale += 1

    def _means(self, prefix: str, sums: dict[str, float]) -> dict[str, float]:
        if not sums:
            return {}
        names = sorted(sums)
        total = self._sum_over_processes(torch.tensor([sums[name] for name in names], dtype=torch.float64))
        totals = dict(zip(names, total.tolist(), strict=True))
        images = totals.pop("images")
        return {f"{prefix}/{name}": value / images for name, value in totals.items()}

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        total = value.to(self.fabric.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.cpu()

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked: all must leave at the same batch."""
        if self.fabric.world_size == 1:
            return self.stop()
        return bool(self._sum_over_processes(torch.tensor(float(self.stop()))) > 0)

    # --- state

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            self.checkpoints.save(self._state())
        if self.fabric.world_size > 1:
            self.fabric.barrier()

    def _state(self) -> dict[str, Any]:
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": random,
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
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random"]["cuda"])
        self.best = state["best"]


def _add(sums: dict[str, Tensor], loss: Tensor, terms: dict[str, Tensor], images: int) -> None:
    """Add a batch's losses to running sums that stay on the device: no synchronisation per batch."""
    for name, value in {"loss": loss, **terms}.items():
        value = value.detach().double() * images
        sums[name] = sums[name] + value if name in sums else value
    sums["images"] = sums["images"] + images if "images" in sums else torch.tensor(float(images), dtype=torch.float64)

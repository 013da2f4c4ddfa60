"""Self-correction of noisy labels: Li, Xu, Wei, Yang: Self-Correction for Human Parsing, arXiv 1910.09777 (SCHP).

Training runs in cycles of a falling learning rate. At the end of each, the weights join an average over the cycles,
whose batch norms are then estimated anew; the average's predictions, mixed with the given labels, are the labels of the
next cycle. It works with any model. Where the paper and the authors' code differ, this follows the code: predictions
are mixed with the given labels, not with the last soft labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.data.batches import Batch
from segmodels.errors import InputError
from segmodels.training.averages import WeightAverage, still_copy


class SelfCorrection(WeightAverage):
    """The average of the weights of ``model`` over the cycles, and the labels that it corrects.

    Args:
        start: epochs after which the first cycle ends; the average is a copy of the weights then.
        cycle: epochs of each further cycle.
        normalised: what the model takes, for raw images.
        ignore_index: of the class maps.

    Raises:
        InputError: ``start`` or ``cycle`` below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        start: int = 100,
        cycle: int = 10,
        normalised: Callable[[Tensor], Tensor] = Tensor.float,
        ignore_index: int = 255,
    ) -> None:
        _check_cycles(start, cycle)
        self.normalised = normalised
        self.ignore_index = ignore_index
        self.start = start
        self.cycle = cycle
        self.cycles = 0  # that are over
        self.model = still_copy(model)

    def before_step(self, batch: Batch) -> Tensor | None:
        if self.cycles == 0:
            return None
        return self.soft_labels(self.normalised(batch.images), batch.targets.classes)

    def after_epoch(self, epoch: int, model: nn.Module, batches: Iterable[Tensor], save: Callable[[], None]) -> None:
        if self.is_due(epoch + 1):
            save()  # a pass over the training set follows: stopped in it, the next run ends the cycle anew
            self.end_cycle(model, batches)

    def stands_in(self, epoch: int) -> bool:
        return self.cycle_ends(epoch + 1)

    def asks_for_validation(self, epoch: int) -> bool:
        return self.cycle_ends(epoch + 1)

    def cycle_ends(self, epochs: int) -> bool:
        """Whether a cycle ends when ``epochs`` epochs are done."""
        return epochs >= self.start and (epochs - self.start) % self.cycle == 0

    def is_due(self, epochs: int) -> bool:
        """Whether the cycle that ends when ``epochs`` epochs are done has yet to join the average."""
        return self.cycle_ends(epochs) and self.cycles <= (epochs - self.start) // self.cycle

    def end_cycle(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """Take the trained ``model`` into the average, w <- w n / (n + 1) + model / (n + 1) after n cycles, and
        estimate its batch norms anew on ``batches``.

        ``batches`` are inputs of the model, float (B, in, H, W) on its device, as a rule all of the training set.
        """
        average_weights(self.model, model, 1 / (self.cycles + 1))
        estimate_batch_norm(self.model, batches)
        self.cycles += 1

    @torch.no_grad()
    def soft_labels(self, images: Tensor, target: Tensor) -> Tensor | None:
        """Corrected labels of a batch, see ``refine_labels``; None before the end of the first cycle."""
        if self.cycles == 0:
            return None
        return refine_labels(self.model(images).probabilities(), target, self.cycles, self.ignore_index)

    def state_dict(self) -> dict[str, Any]:
        return {"cycles": self.cycles, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cycles = state["cycles"]
        self.model.load_state_dict(state["model"])


def cyclic_learning_rate_factor(
    epoch: float, *, start: int, cycle: int, warmup: float = 0.0, cyclic: float = 0.5, floor: float = 0.01
) -> float:
    """Factor on the peak learning rate when ``epoch`` epochs are done (a fraction within an epoch).

    A linear rise over ``warmup`` epochs, a cosine from 1 to ``floor`` at ``start``, then per cycle a cosine from
    ``cyclic`` to ``floor`` (cosines with restarts: Loshchilov 2017, 1608.03983). The authors' code has warmup 10, start
    100 of 150 epochs, cycle 10.

    Raises:
        InputError: ``start`` or ``cycle`` below 1, or ``warmup`` not before ``start``.
    """
    _check_cycles(start, cycle)
    if not 0 <= warmup < start:
        raise InputError(f"warmup is {warmup:g} epochs, expected 0 or more and less than start ({start})")
    if epoch < warmup:
        return max(epoch / warmup, floor)
    peak, share = (
        (1.0, (epoch - warmup) / (start - warmup)) if epoch < start else (cyclic, (epoch - start) % cycle / cycle)
    )
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, share: float) -> None:
    """Change the parameters of ``average`` to (1 - share) average + share model. Buffers stay: statistics of one
    network do not fit another.
    """
    torch._foreach_lerp_(list(average.parameters()), [parameter.detach() for parameter in model.parameters()], share)


@torch.no_grad()
def estimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to the mean over ``batches`` (each weighted by its images).

    Everything else runs as in evaluation (no dropout). Frozen batch norms, those that ``train()`` leaves in evaluation
    mode, keep their statistics. Over several processes, synchronised batch norms give the statistics of all.

    Raises:
        InputError: no batches.
    """
    modes = {module: module.training for module in model.modules()}
    norms = [
        module
        for module in model.train().modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    norms = [norm for norm in norms if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
    seen = 0
    for images in batches if norms else ():
        seen += len(images)
        for norm in norms:
            norm.momentum = len(images) / seen
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes.items():
        module.training = training
    if norms and not seen:
        raise InputError(
            "no batches to estimate batch norm from, expected those of the training set: give at least one"
        )


def refine_labels(probabilities: Tensor, target: Tensor, cycles: int, ignore_index: int = 255) -> Tensor:
    """Soft labels n / (n + 1) probabilities + 1 / (n + 1) one-hot target after n = ``cycles`` cycles; 0 for all classes
    where the target is ignored.

    Args:
        probabilities: (B, C, H, W), of the averaged model.
        target: train ids (B, H, W).
    """
    valid = target != ignore_index
    labels = target.long().masked_fill(~valid, 0).unsqueeze(1)
    share = 1 / (cycles + 1)
    soft = (1 - share) * probabilities
    soft = soft.scatter_add(1, labels, torch.full_like(soft[:, :1], share))
    return soft * valid.unsqueeze(1)


def _check_cycles(start: int, cycle: int) -> None:
    for name, value in (("start", start), ("cycle", cycle)):
        if value < 1:
            raise InputError(f"{name} of self-correction is {value} epochs, expected at least 1")

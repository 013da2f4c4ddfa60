"""Bases of losses: the part of an output that they read; for losses of logits: checks, ignored pixels, precision."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from segmodels.checks import shown
from segmodels.errors import InputError


class Images(NamedTuple):
    """The images of a batch, for losses that compare a prediction with them."""

    raw: Tensor  # (B, channels, *spatial) in their own units, of any type
    normalised: Tensor  # the same as the model saw them, float32


class Loss(nn.Module, ABC):
    """A term of a training's loss. ``loss(output, target) -> scalar``, both as the subclass says.

    ``term`` calls it with what it reads of a model's output and of the targets.

    Attributes:
        reads: ``logits``, a key of ``PixelOutput.extras``, or ``queries`` (``QueryOutput``).
        requires: what the dataset must have beside class maps: ``image_label``, ``objects``.
        accepts_soft_labels: whether ``soft_term`` can take the place of ``term``.
        curve: name of the loss's curve; None: the loss's own name.
    """

    reads: ClassVar[str] = "logits"
    requires: ClassVar[frozenset[str]] = frozenset()
    accepts_soft_labels: ClassVar[bool] = False
    curve: ClassVar[str | None] = None

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        """The loss of one layer of a model's output, scalar; None if the layer lacks what the loss reads.

        Args:
            layer: of ``output.layers(...)``.
            targets: what ``Task.targets`` made of the annotations.
            images: of the batch.
        """
        output = self.read(layer)
        return None if output is None else self(output, targets.classes)

    def terms(self, layers: Sequence[Any], targets: Any, images: Images | None = None) -> list[Tensor | None]:
        """``term`` of each layer of one output; a loss that shares work between layers overrides both."""
        return [self.term(layer, targets, images) for layer in layers]

    def read(self, layer: Any) -> Any:
        """The part ``reads`` of a layer of a model's output; None if it has no such part."""
        if self.reads == "logits":
            return getattr(layer, "logits", None)
        return getattr(layer, "extras", {}).get(self.reads)

    def soft_term(self, layer: Any, soft_labels: Tensor) -> Tensor | None:
        """As ``term``, with a distribution over the classes ``(B, C, *spatial)`` in place of the targets."""
        raise NotImplementedError(f"{type(self).__name__} does not accept soft labels")

    def scores(self, layer: Any, targets: Any) -> dict[str, Tensor]:
        """Further means over the images of a batch that are worth a curve, by name; scalars without gradient."""
        return {}


class LogitsLoss(Loss):
    """``loss(logits, target) -> scalar``: logits raw ``(B, C, *spatial)``, target train ids, integer ``(B, *spatial)``.

    Two or three spatial axes. Pixels whose target is ``ignore_index`` change neither the value nor the gradient; a
    batch of nothing else, or of no images, gives 0 with zero gradient. Half-precision logits are computed in float32,
    also under autocast.

    Raises:
        InputError: no tensors, logits that are no floating-point numbers, shapes that do not fit, or (on the CPU, where
            it costs no synchronisation) labels outside 0..C-1.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not (isinstance(logits, Tensor) and isinstance(target, Tensor) and logits.is_floating_point()):
            raise InputError(
                f"logits are {_kind(logits)} and the target is {_kind(target)}, expected tensors of floating-point"
                " numbers and of integers: convert them"
            )
        if logits.ndim not in (4, 5) or logits.shape[1] < 2:
            raise InputError(
                f"logits have shape {tuple(logits.shape)}, expected (B, C, H, W) or (B, C, D, H, W) with C >= 2 classes"
            )
        if target.shape != logits.shape[:1] + logits.shape[2:] or target.is_floating_point():
            raise InputError(
                f"target is {target.dtype} {tuple(target.shape)}, expected integers"
                f" {tuple(logits.shape[:1] + logits.shape[2:])} as the logits"
            )
        if not target.numel():
            return logits.sum()  # 0, and its gradient as empty as the logits
        labels = target.long()  # before the comparison: -1 would equal 255 in uint8
        valid = labels != self.ignore_index
        labels = labels.masked_fill(~valid, 0)
        if labels.device.type == "cpu":
            self._check(labels, logits.shape[1])
        with torch.autocast(logits.device.type, enabled=False):
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            return self.compute(logits, labels, valid)

    def _check(self, labels: Tensor, num_classes: int) -> None:
        least, largest = labels.aminmax()
        if least < 0 or largest >= num_classes:
            wrong = labels[(labels < 0) | (labels >= num_classes)].unique().tolist()
            raise InputError(
                f"target holds labels {wrong}, expected 0..{num_classes - 1} or {self.ignore_index} (ignored): correct"
                " the label map"
            )

    @abstractmethod
    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The loss of checked input: logits float32 or float64, labels int64 in 0..C-1 (0 where ignored), valid
        bool.
        """


def _kind(value: Any) -> str:
    """The type of a value, of a tensor with that of its numbers."""
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """``value`` if it is allowed; raises InputError with the allowed values otherwise."""
    if value not in allowed:
        raise InputError(f"{option} is {value!r}, expected one of {', '.join(allowed)}")
    return value


def check_not_negative(**numbers: float) -> None:
    """Raise InputError for a number below 0 or that is not finite; ``numbers`` are options by name."""
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} is {value:g}, expected a finite number of at least 0")


def check_share(**shares: float) -> None:
    """Raise InputError for a number outside 0..1; ``shares`` are options by name."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value:g}, expected a number from 0 to 1")


def weights_of_classes(class_weights: Tensor | Sequence[float] | None) -> Tensor | None:
    """Class weights as a float32 vector ``(C,)``; raises InputError unless they are finite and at least 0."""
    if class_weights is None:
        return None
    expected = "expected one finite number of at least 0 per class"
    try:
        weights = torch.as_tensor(class_weights, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"class_weights is {shown(class_weights)}, {expected}") from None
    if weights.ndim != 1 or not len(weights) or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise InputError(f"class_weights is {weights.tolist()}, {expected}")
    return weights


def mean_valid(values: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ values / number of valid pixels, or / Σ weights of theirs; 0 if that is 0. All of one shape."""
    total = valid.sum() if weights is None else torch.where(valid, weights, 0).sum()
    return torch.where(valid, values, 0).sum() / torch.where(total > 0, total, 1)


def mean_present(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the present classes of each row of ``(G, C)``, then over the rows that have any; 0 if none has."""
    classes = present.sum(dim=1)
    rows = torch.where(present, values, 0).sum(dim=1) / classes.clamp(min=1)
    return rows.sum() / (classes > 0).sum().clamp(min=1)


def class_sums(values: Tensor, labels: Tensor, num_classes: int, squared: bool = False) -> Tensor:
    """Sum of ``values`` (or of their squares) over the pixels of each class: both ``(B, N)`` -> ``(B, C)``.

    In float64 where the device has it: float32 would stop counting at 2^24 pixels.
    """
    exact = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    images = torch.arange(len(labels), device=labels.device)[:, None]
    sums = exact.new_zeros(len(labels) * num_classes)
    return sums.index_add(
        0, (images * num_classes + labels).flatten(), (exact.square() if squared else exact).flatten()
    ).view(len(labels), num_classes)

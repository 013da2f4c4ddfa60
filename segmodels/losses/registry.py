"""Losses by name, and weighted sums of them: ``create_loss({"cross_entropy": 1.0, "dice": {"weight": 0.5, "smooth":
1e-5}})``.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segmodels.errors import InputError, nearest
from segmodels.outputs import PixelOutput, QueryOutput

_LossClass = TypeVar("_LossClass", bound=type[nn.Module])


@dataclass(frozen=True)
class LossCard:
    """Facts about a loss, as ``python -m segmodels losses`` prints them.

    Attributes:
        source: paper and place of the formula.
        use: when to choose it, one line.
        inputs: what it is called with: ``logits`` (and target: can be summed), ``queries`` (and target: can be summed,
            for models that predict queries), ``presence``, ``object_presence`` or ``points`` (and target: can be
            summed, fields of ``PixelOutput`` that some models have), or ``image`` (unsupervised: its own call, see its
            docstring).
    """

    source: str
    use: str
    inputs: str = "logits"


@dataclass(frozen=True)
class LossEntry:
    """A registered loss: its name, its class and its card."""

    name: str
    build: type[nn.Module]
    card: LossCard

    @property
    def options(self) -> dict[str, Any]:
        """Options with their defaults, those that a constructor passes on as ``**options`` included."""
        found: dict[str, Any] = {}
        for base in self.build.__mro__:
            if base is nn.Module:
                break
            if "__init__" in vars(base):
                parameters = inspect.signature(base).parameters.values()
                found = {
                    p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "ignore_index"
                } | found
                if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                    break
        return found


_ENTRIES: dict[str, LossEntry] = {}


def register_loss(name: str, card: LossCard) -> Callable[[_LossClass], _LossClass]:
    """Class decorator: the class's constructor takes ``ignore_index`` and options with defaults."""

    def register(build: _LossClass) -> _LossClass:
        if name in _ENTRIES:
            raise RuntimeError(f"loss {name!r} is registered twice")
        _ENTRIES[name] = LossEntry(name, build, card)
        return build

    return register


def _load_all() -> None:
    """Import every module of this package once, so that their losses are registered."""
    package = importlib.import_module("segmodels.losses")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segmodels.losses.{module.name}")


def list_losses() -> list[str]:
    """Names of all losses, sorted."""
    _load_all()
    return sorted(_ENTRIES)


def loss_entry(name: str) -> LossEntry:
    """The registered loss of that name; raises InputError with the nearest names."""
    if name not in list_losses():
        raise nearest("loss", name, list_losses())
    return _ENTRIES[name]


class WeightedSum(nn.Module):
    """Weighted sum of losses, each known by its name.

    Attributes:
        weights: factor of each term.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)

    def terms(self, prediction: Tensor | PixelOutput | QueryOutput, target: Tensor) -> dict[str, Tensor]:
        """Unweighted value of each term.

        Terms on outputs that belong to training mode (``presence``, ``points``) are left out where there is
        none: in evaluation mode, and for an auxiliary head's logits.

        Args:
            prediction: logits ``(B, C, *spatial)``, or a model's whole output, which terms on its other outputs need.
            target: train ids ``(B, *spatial)``.
        """
        whole = PixelOutput(prediction) if isinstance(prediction, Tensor) else prediction
        values = {}
        for name, loss in self.losses.items():
            inputs = _ENTRIES[name].card.inputs
            if (inputs == "queries") != isinstance(whole, QueryOutput):
                raise InputError(
                    f"loss {name!r} got no {inputs}, expected the output of a mask classification model such as"
                    " 'maskformer_r50' for the loss 'mask_classification' alone"
                )
            if isinstance(whole, QueryOutput):
                values[name] = loss(whole, target)
            elif (output := whole.logits if inputs == "logits" else whole.extras.get(inputs)) is not None:
                values[name] = loss(output, target)
        return values

    def forward(self, prediction: Tensor | PixelOutput | QueryOutput, target: Tensor) -> Tensor:
        """Σ weight · term, scalar."""
        return sum(
            (self.weights[name] * value for name, value in self.terms(prediction, target).items()),
            start=target.new_zeros((), dtype=torch.float32),
        )


def create_loss(
    config: Mapping[str, float | Mapping[str, Any]],
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    unsupervised: bool = False,
) -> WeightedSum:
    """A weighted sum of losses.

    Args:
        config: name -> weight, or name -> ``{"weight": ..., option: ...}`` with weight 1 if not given.
        ignore_index: target value of pixels that count nowhere.
        class_weights: ``(C,)``, given to every term that has an option of that name and does not set it.
        unsupervised: only losses that compare a prediction with the image are taken, else only those that compare it
            with a target. Their members ``losses`` are called one by one.

    Raises:
        InputError: unknown loss or option (with the nearest names, or all), a value that is impossible, or a loss of
            the other kind.
    """
    if not config:
        raise InputError("loss is empty, expected at least one term, for example {cross_entropy: 1.0}")
    losses, weights = {}, {}
    for name, value in config.items():
        entry = loss_entry(name)
        if (entry.card.inputs == "image") != unsupervised:
            takes, expected = ("the labels", "the image") if unsupervised else ("the image", "a target")
            raise InputError(
                f"loss {name!r} compares a prediction with {takes}, expected losses that compare it with {expected}:"
                " `python -m segmodels losses`"
            )
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weights[name] = _weight(name, options.pop("weight", 1.0))
        losses[name] = _build(entry, options, ignore_index, class_weights)
    return WeightedSum(losses, weights)


def _weight(name: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise InputError(f"weight of loss {name!r} is {weight!r}, expected a number of at least 0")
    return float(weight)


def _build(entry: LossEntry, options: dict[str, Any], ignore_index: int, class_weights: Tensor | None) -> nn.Module:
    known = entry.options
    for option, value in options.items():
        if option not in known:
            raise nearest(f"option of loss {entry.name!r}", option, ["weight", *sorted(known)])
        default = known[option]
        kind = next((kinds for kinds in ((bool,), (int, float), (str,)) if isinstance(default, kinds)), (object,))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind == (int, float)):
            raise InputError(
                f"option {option!r} of loss {entry.name!r} is {value!r}, expected a value like its default {default!r}"
            )
    weights = {"class_weights": class_weights} if class_weights is not None and "class_weights" in known else {}
    common = {} if entry.card.inputs == "image" else {"ignore_index": ignore_index}
    try:
        return entry.build(**weights | options, **common)
    except InputError as error:
        raise InputError(f"loss {entry.name!r}: {error}") from None

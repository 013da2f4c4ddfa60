"""Losses by name, and weighted sums of them: ``create_loss({"cross_entropy": 1.0, "dice": {"weight": 0.5, "smooth":
1e-5}})``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from segmodels.errors import InputError
from segmodels.losses.base import Images, Loss
from segmodels.outputs import PixelOutput
from segmodels.registry import Entry, Registry
from segmodels.suggest import nearest
from segmodels.tasks.targets import SemanticTargets

_LossClass = TypeVar("_LossClass", bound=type[Loss])


@dataclass(frozen=True)
class LossCard:
    """Facts about a loss, as ``python -m segmodels losses`` prints them.

    Attributes:
        source: paper and place of the formula.
        use: when to choose it, one line.
    """

    source: str
    use: str


LOSSES: Registry[Loss, LossCard] = Registry("loss", "segmodels.losses", "train.loss takes")


def register_loss(name: str, card: LossCard) -> Callable[[_LossClass], _LossClass]:
    """Class decorator: the class's constructor takes options with defaults, and ``ignore_index`` where it compares
    class maps.
    """
    return LOSSES.register(name, card)


def list_losses() -> list[str]:
    """Names of all losses, sorted."""
    return LOSSES.names()


def loss_class(name: str) -> type[Loss]:
    """The registered loss of that name; raises InputError with the nearest names."""
    return cast(type[Loss], LOSSES[name].build)


class WeightedSum(nn.Module):
    """Weighted sum of losses, each known by its name.

    Attributes:
        losses: by name.
        weights: factor of each term, by name.
    """

    losses: Mapping[str, Loss]

    def __init__(self, losses: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = cast(Mapping[str, Loss], nn.ModuleDict(losses))
        self.weights = dict(weights)

    def terms(
        self, layer: Any, targets: Any, images: Images | None = None, soft_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted value of each term.

        Terms on outputs that belong to training mode (``presence``, ``points``) are left out where there is
        none: in evaluation mode, and for an auxiliary head's logits.

        Args:
            layer: of ``output.layers(...)``, or logits ``(B, C, *spatial)``.
            targets: what ``Task.targets`` made of the annotations, or train ids ``(B, *spatial)``.
            images: of the batch, for losses that compare a prediction with them.
            soft_labels: ``(B, C, *spatial)``, in place of the targets for the losses that accept them.
        """
        return self.terms_of_layers([layer], targets, images, soft_labels)[0]

    def terms_of_layers(
        self, layers: Sequence[Any], targets: Any, images: Images | None = None, soft_labels: Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """``terms`` of each layer of one output."""
        layers = [PixelOutput(layer) if isinstance(layer, Tensor) else layer for layer in layers]
        if isinstance(targets, Tensor | np.ndarray):  # arrays for the sentence that the losses refuse them with
            targets = SemanticTargets(cast(Tensor, targets))
        found: list[dict[str, Tensor]] = [{} for _ in layers]
        for name, loss in self.losses.items():
            if soft_labels is not None and loss.accepts_soft_labels:
                values = [loss.soft_term(layer, soft_labels) for layer in layers]
            else:
                values = loss.terms(layers, targets, images)
            for of_layer, value in zip(found, values, strict=True):
                if value is not None:
                    of_layer[name] = value
        return found

    def forward(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor:
        """Σ weight · term, scalar, float32 at least; arguments as of ``terms``.

        Raises:
            InputError: the layer has nothing that one of the losses reads.
        """
        terms = self.terms(layer, targets, images)
        if not terms:
            raise self.nothing_read(layer)
        return self.total(terms)

    def nothing_read(self, layer: Any) -> InputError:
        """The error to raise when a layer has nothing that the losses read."""
        reads = ", ".join(f"{name!r} reads {loss.reads}" for name, loss in self.losses.items())
        return InputError(
            f"the model's output ({type(layer).__name__}) has nothing to compute a loss from: {reads}; choose losses"
            " for this kind of model, or leave train.loss out"
        )

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Σ weight · term, scalar, of what ``terms`` returned."""
        zero = next(iter(terms.values())).new_zeros(())
        return sum((self.weights[name] * value for name, value in terms.items()), start=zero)

    def curves(self, layer: Any, targets: Any, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms, and what the losses report beside them, by the names of their curves."""
        named = {self.losses[name].curve or name: value for name, value in terms.items()}
        return named | {
            name: value for loss in self.losses.values() for name, value in loss.scores(layer, targets).items()
        }


def create_loss(
    config: Mapping[str, float | Mapping[str, Any]], *, ignore_index: int = 255, class_weights: Tensor | None = None
) -> WeightedSum:
    """A weighted sum of losses.

    Args:
        config: name -> weight, or name -> ``{"weight": ..., option: ...}`` with weight 1 if not given.
        ignore_index: train id of pixels that do not count.
        class_weights: ``(C,)``, given to every term that has an option of that name and does not set it.

    Raises:
        InputError: unknown loss or option (with the nearest names, or all), or a value that is impossible.
    """
    if not config:
        raise InputError("loss is empty, expected at least one term, for example {cross_entropy: 1.0}")
    losses, weights = {}, {}
    for name, value in config.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        entry = LOSSES[name]
        weights[name] = _weight(name, options.pop("weight", 1.0))
        losses[name] = _build(entry, options, ignore_index, class_weights)
    if not any(weights.values()):
        raise InputError(f"loss has the weights {weights}, expected one above 0: nothing would be learned")
    return WeightedSum(losses, weights)


def loss_options(name: str) -> dict[str, Any]:
    """Options of a loss with their defaults, those that a constructor passes on as ``**options`` included."""
    found: dict[str, Any] = {}
    for base in loss_class(name).__mro__:
        if base is nn.Module:
            break
        if "__init__" in vars(base):
            parameters = list(inspect.signature(base).parameters.values())
            found = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def _weight(name: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise InputError(f"weight of loss {name!r} is {weight!r}, expected a number of at least 0")
    return float(weight)


def _build(
    entry: Entry[Loss, LossCard], options: dict[str, Any], ignore_index: int, class_weights: Tensor | None
) -> Loss:
    given = {"ignore_index": ignore_index, "class_weights": class_weights}
    known = loss_options(entry.name)
    common = {name: value for name, value in given.items() if name in known and value is not None}
    known.pop("ignore_index", None)
    for option, value in options.items():
        if option not in known:
            raise nearest("option", option, ["weight", *sorted(known)], f" of loss {entry.name!r}")
        default = known[option]
        kind = next((kinds for kinds in ((bool,), (int, float), (str,)) if isinstance(default, kinds)), (object,))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind == (int, float)):
            raise InputError(
                f"option {option!r} of loss {entry.name!r} is {value!r}, expected a value like its default {default!r}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"option {option!r} of loss {entry.name!r} is {value}, expected a finite number")
    try:
        return entry.build(**common | options)
    except InputError as error:
        raise InputError(f"loss {entry.name!r}: {error}") from None

"""Models by name: ``create_model("unet", num_classes=11)``, ``list_models()``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from segmodels.errors import InputError, nearest


@dataclass(frozen=True)
class ModelCard:
    """Facts about one variant. ``parameters`` and ``gmac`` are recomputed by the contract test.

    Attributes:
        paper: authors, title, venue or arXiv number.
        year: of publication.
        task: ``semantic``, ``unsupervised``, ``joint`` (segmentation + classification), ``instance`` or ``prompt``.
        default_encoder: name in the encoder registry, None for models without a separate encoder.
        parameters: trainable parameters in training mode (auxiliary heads included) at ``num_classes`` classes.
        num_classes, size: the setting that ``parameters`` and ``gmac`` are for; size is (height, width).
        gmac: 10^9 multiply-accumulates of one forward pass of one image in eval mode (auxiliary heads off).
        source: where the expected count comes from ("specification [M]", "paper, table 1", "own count").
        result: headline result with its source, as the paper reports it.
        auxiliary_weights: what the source gives the losses of the auxiliary heads, in their order; further heads take
            the last.
        losses: terms on outputs of the model's own that the paper adds to the pixel loss, name -> weight.
    """

    paper: str
    year: int
    task: str = "semantic"
    default_encoder: str | None = None
    parameters: int | None = None
    num_classes: int = 21
    size: tuple[int, int] = (512, 512)
    gmac: float | None = None
    source: str = ""
    result: str = ""
    auxiliary_weights: tuple[float, ...] = (0.4,)
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry:
    """A registered variant: its name, the function that builds it, and its card."""

    name: str
    build: Callable[..., nn.Module]
    card: ModelCard


_ENTRIES: dict[str, ModelEntry] = {}


def register_model(name: str, card: ModelCard) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator for a function ``build(num_classes, in_channels=3, **options) -> nn.Module``."""

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in _ENTRIES:
            raise RuntimeError(f"model {name!r} is registered twice")
        _ENTRIES[name] = ModelEntry(name, build, card)
        return build

    return register


def _load_all() -> None:
    """Import every module of this package once, so that their models are registered."""
    package = importlib.import_module("segmodels.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segmodels.models.{module.name}")


def list_models(task: str | None = None) -> list[str]:
    """Names of all variants, sorted; of one task if given."""
    _load_all()
    return sorted(name for name, entry in _ENTRIES.items() if task in (None, entry.card.task))


def model_entry(name: str) -> ModelEntry:
    """The registered variant of that name; raises InputError with the nearest names."""
    _load_all()
    if name not in _ENTRIES:
        raise nearest("model", name, sorted(_ENTRIES))
    return _ENTRIES[name]


def model_options(name: str) -> dict[str, Any]:
    """Options of a variant beyond ``num_classes`` with their defaults."""
    parameters = inspect.signature(model_entry(name).build).parameters
    return {key: value.default for key, value in parameters.items() if key != "num_classes"}


def create_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Build a model with ``num_classes`` (>= 2) output channels.

    Common options: ``in_channels`` (default 3), ``encoder``, ``encoder_weights`` (path or URI) for models with an
        encoder.

    Raises:
        InputError: unknown model (with the nearest names), unknown option (with the nearest names), fewer than 2
            classes or 1 channel.
    """
    entry = model_entry(name)
    if num_classes < 2:
        raise InputError(
            f"num_classes is {num_classes}, expected at least 2: a binary task has the classes background and object"
        )
    known = model_options(name)
    for option in options:
        if option not in known:
            raise nearest(f"option of model {name!r}", option, sorted(known))
    if options.get("in_channels", 1) < 1:
        raise InputError(
            f"in_channels is {options['in_channels']}, expected at least 1, the channels of the images: 3 for RGB"
        )
    return entry.build(num_classes=num_classes, **options)

"""Models by name: ``create_model("unet", num_classes=11)``, ``list_models()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.models.base import Model
from segmodels.registry import Entry, Registry

Builder = TypeVar("Builder", bound=Callable[..., Model])
BODY_OPTIONS: Mapping[str, Any] = {
    "encoder": str | None,
    "encoder_weights": str | Path | None,
    "encoder_options": Mapping[str, Any] | None,
}
"""Options of models with an encoder, and their types; ``Body.replaced`` takes them."""


@dataclass(frozen=True)
class Card:
    """Facts about one variant. ``parameters`` and ``gmac`` are recomputed by the contract test.

    Attributes:
        paper: authors, title, venue or arXiv number.
        year: of publication.
        tasks: names of the tasks that the model learns; the first that a dataset's annotations support is the default.
        losses: the paper's whole loss, name -> weight or name -> ``{"weight": ..., option: ...}``; empty where the
            paper states none other than cross-entropy.
        auxiliary_weights: weights of the auxiliary heads' losses in the source, in the heads' order; further heads take
            the last.
        least_classes: 2, or 1 for models that find objects and need no background class.
        learner: ``supervised``, ``alternating`` (two objectives in turn, without labels), or ``interactive``
            (promptable models: several decoder passes per image, clicks from errors).
        parameters: trainable parameters in training mode (auxiliary heads included) at ``num_classes`` classes.
        num_classes, size: the setting that ``parameters`` and ``gmac`` are for; size is (height, width).
        gmac: 10^9 multiply-accumulates of one forward pass of one image in eval mode (auxiliary heads off).
        source: where the expected count comes from: a reference and its version, a table of the paper, or "own count".
        result: headline result with its source, as the paper reports it.
        optimizer, lr, weight_decay, schedule, batch_size: what the paper trains with; None where it does not say.
    """

    paper: str
    year: int
    tasks: tuple[str, ...] = ("semantic",)
    losses: Mapping[str, float | Mapping[str, Any]] = field(default_factory=dict)
    auxiliary_weights: tuple[float, ...] = (0.4,)
    least_classes: int = 2
    learner: str = "supervised"
    parameters: int | None = None
    num_classes: int = 21
    size: tuple[int, int] = (512, 512)
    gmac: float | None = None
    source: str = ""
    result: str = ""
    optimizer: str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    batch_size: int | None = None


MODELS: Registry[Model, Card] = Registry("model", "segmodels.models")


def register_model(name: str, card: Card) -> Callable[[Builder], Builder]:
    """Decorator for a function ``build(num_classes, in_channels=3, body=Body("resnet50"), ...) -> Model``."""
    return MODELS.register(name, card)


def list_models() -> list[str]:
    """Names of all variants, sorted; each one's tasks are on its card, ``model_entry(name).card``."""
    return MODELS.names()


def model_entry(name: str) -> Entry[Model, Card]:
    """The registered variant of that name; raises InputError with the nearest names."""
    return MODELS[name]


def model_body(name: str, **options: Any) -> Body | None:
    """The encoder that a variant stands on with these options (``encoder``, ``encoder_weights``, ``encoder_options``,
    or ``body`` itself); None for models without one.
    """
    default = options.get("body") or MODELS[name].options.get("body")
    return default and default.replaced(**{key: options[key] for key in BODY_OPTIONS if key in options})


def model_options(name: str) -> dict[str, Any]:
    """Options of a variant beyond ``num_classes`` with their defaults; ``body`` as its three parts."""
    options = {key: default for key, default in MODELS[name].options.items() if key not in ("num_classes", "body")}
    if body := model_body(name):
        options |= dict(zip(BODY_OPTIONS, (body.encoder, body.weights, dict(body.options)), strict=True))
    return options


def create_model(name: str, num_classes: int, **options: Any) -> Model:
    """Build a model of ``num_classes`` classes: at least 2, or what its card says.

    Args:
        options: of the variant. All have ``in_channels`` (default 3). Those with an encoder take ``encoder`` (its
            name), ``encoder_weights`` (path or URI) and ``encoder_options``, or ``body``, a ``Body`` of all three.

    Raises:
        InputError: unknown model (with the nearest names), unknown option (with the nearest names), too few
            classes, or fewer than 1 channel.
    """
    entry = MODELS[name]
    if num_classes < (least := entry.card.least_classes):
        hint = ": a binary task has the classes background and object" if least > 1 else ""
        raise InputError(f"num_classes is {num_classes}, expected at least {least}{hint}")
    MODELS.check_options(name, options, {*model_options(name), *entry.options} - {"num_classes"}, BODY_OPTIONS)
    if options.get("in_channels", 1) < 1:
        raise InputError(
            f"in_channels is {options['in_channels']}, expected at least 1, the channels of the images: 3 for RGB"
        )
    if body := model_body(name, **options):
        options = {key: value for key, value in options.items() if key not in BODY_OPTIONS} | {"body": body}
    return MODELS.built(name, options, num_classes=num_classes)

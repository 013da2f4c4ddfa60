"""Models by name: ``create_model("unet", num_classes=11)``, ``list_models()``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from segmodels.checks import shown
from segmodels.encoders.body import Body
from segmodels.encoders.pretrained import named_weights, resolved
from segmodels.encoders.registry import ENCODERS, encoder_options
from segmodels.errors import InputError
from segmodels.models.base import Model
from segmodels.models.published import load_published
from segmodels.registry import Entry, Registry

Builder = TypeVar("Builder", bound=Callable[..., Model])
BODY_OPTIONS: Mapping[str, Any] = {
    "encoder": str | None,
    "encoder_weights": str | Path | None,
    "encoder_options": Mapping[str, Any] | None,
}
"""Options of models with an encoder, and their types; ``Body.replaced`` takes them."""
WEIGHTS: Mapping[str, Any] = {"weights": str | Path | None}
"""An option of every model: weights of the whole model, see ``load_published``."""


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


class _Models(Registry[Model, Card]):
    def instead_of(self, other: Registry[Any, Any], name: str) -> str:
        """The models that stand on an encoder."""
        if other is not ENCODERS:
            return ""
        own = [one for one in self.names() if (body := model_body(one)) and body.encoder == name]
        return " or ".join(sorted(own, key=len)[:3])


MODELS = _Models("model", "segmodels.models", "train.model takes")


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

    Raises:
        InputError: weights or options of an encoder, where the variant has none until one is named.
    """
    own = MODELS[name].options
    given = {key: options[key] for key in BODY_OPTIONS if options.get(key) is not None}
    default = options.get("body") or own.get("body")
    if default is None and "body" in own and given:
        if "encoder" not in given:
            raise InputError(f"{', '.join(given)} of model {name!r} is given without an encoder: name one as encoder")
        default = Body(given["encoder"])
    return default and default.replaced(**given)


def model_options(name: str) -> dict[str, Any]:
    """Options of a variant beyond ``num_classes`` with their defaults; ``body`` as its three parts."""
    own = MODELS[name].options
    options = {key: default for key, default in own.items() if key not in ("num_classes", "body")}
    if "body" in own:
        body = model_body(name)
        parts = (body.encoder, body.weights, dict(body.options)) if body else (None, None, None)
        options |= dict(zip(BODY_OPTIONS, parts, strict=True))
    return options | {"weights": None}


def known_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a task's ``model_arguments`` that a variant has an option for."""
    options = MODELS[name].options
    return {key: value for key, value in arguments.items() if key in options}


def create_model(name: str, num_classes: int, **options: Any) -> Model:
    """Build a model of ``num_classes`` classes: at least 2, or what its card says.

    Args:
        options: of the variant. All have ``in_channels`` (default 3), and ``weights``: name, path or URI of weights of
            the whole model, ours, mmsegmentation's or torchvision's (``load_published``). Those with an encoder take
            ``encoder`` (its name), ``encoder_weights`` (``imagenet``, another name of the table in
            ``encoders.pretrained``, a path or URI) and ``encoder_options``, or ``body``, a ``Body`` of all three.

    Raises:
        InputError: unknown model (with the nearest names), unknown option (with the nearest names), too few
            classes, or fewer than 1 channel.
    """
    entry = MODELS[name]
    if num_classes < (least := entry.card.least_classes):
        hint = ": a binary task has the classes background and object" if least > 1 else ""
        raise InputError(f"num_classes is {num_classes}, expected at least {least}{hint}")
    body = check_model_options(name, options)
    if "body" in entry.options:  # without an encoder only None is left of its options
        options = {key: value for key, value in options.items() if key not in BODY_OPTIONS} | {"body": body}
    weights = options.pop("weights", None)
    model = MODELS.built(name, options, num_classes=num_classes)
    if weights is not None:
        load_published(model, resolved(weights, name), options.get("in_channels", 3))
    return model


def check_model_options(name: str, options: Mapping[str, Any]) -> Body | None:
    """The encoder that a variant stands on with these options of ``create_model``, once all that can be checked without
    building the model is.

    Raises:
        InputError: as ``create_model``, for the names of options, encoder and published weights and for the options'
            types.
    """
    known = {*model_options(name), *MODELS[name].options} - {"num_classes"}
    _check_encoder_options(name, options, known)
    MODELS.check_options(name, options, known, {**BODY_OPTIONS, **WEIGHTS})
    if options.get("in_channels", 1) < 1:
        raise InputError(
            f"in_channels is {options['in_channels']}, expected at least 1, the channels of the images: 3 for RGB"
        )
    body, weights = model_body(name, **options), options.get("weights")
    if body:
        body.check()
    if weights is None:
        return body
    if body and body.weights is not None:
        raise InputError(
            f"model {name!r} got weights of the whole model ({weights}) and of its encoder ({body.weights}), expected"
            " one of them: leave out encoder_weights"
        )
    named_weights(weights, name)
    return body


def _check_encoder_options(name: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise InputError for an option that only the model's encoder has."""
    unknown = [option for option in options if option not in known]
    body = model_body(name) if unknown else None
    of_encoder = encoder_options(body.encoder) if body else set()
    for option in unknown:
        if option in of_encoder:
            raise InputError(
                f"option {option!r} of model {name!r} belongs to its encoder: give it as encoder_options"
                f" {{{option}: {shown(options[option])}}}"
            )

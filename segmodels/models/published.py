"""Weights of whole public models: ``create_model("pspnet_r50_d8", 19, weights="pspnet_r50-d8_....pth")``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.weights import adapt_channels, compared, copy_tensors, foreign, read_state_dict
from segmodels.models.base import Model

log = logging.getLogger(__name__)
PREFIXES = ("", "module.", "model.")


def load_published(model: Model, source: str | Path, channels: int | None = None) -> None:
    """Copy a whole model's weights, under our names or those that ``Model.translate`` knows.

    Layers whose shape follows from the number of classes keep their random start where the file has another number,
    and so do auxiliary heads that the file lacks; heads that the model lacks are left out. First convolutions are
    adapted to the model's channels (``adapt_channels``). A warning names them.

    Args:
        source: path or URI, as for ``encoders.weights.load_weights``.
        channels: of the model's images; None: only the encoder is adapted to them.

    Raises:
        InputError: no such file, not a weights file, or weights of another model, with the keys that differ.
        TransientError: the store does not answer.
    """
    own = model.state_dict()
    given = _reshaped(_adapted(model, _named(model, read_state_dict(source), own)), own)
    first = [key for key in given if key in own and _reads_images(given[key], own[key], channels)]
    given |= {key: adapt_channels(given[key], own[key].shape[1]) for key in first}
    report = compared(given, own)
    theirs, ours = _classes(model, given, own)
    last = {_key_of(model, layer).rpartition(".")[0] for layer in model.classifiers()}
    other_classes = [
        key
        for key in report.mismatched
        if _differs_by(given[key], own[key], theirs - ours)
        or (theirs != ours and key.rpartition(".")[0] in last and given[key].shape[1:] == own[key].shape[1:])
    ]
    absent = [key for key in report.missing if key.startswith(_auxiliary(model))]
    left_out = [key for key in report.unexpected if _is_left_out(model, key)]
    rest = report._replace(
        missing=tuple(key for key in report.missing if key not in absent),
        unexpected=tuple(key for key in report.unexpected if key not in left_out),
        mismatched=tuple(key for key in report.mismatched if key not in other_classes),
    )
    if rest.missing or rest.unexpected or rest.mismatched:
        encoder = getattr(model, "encoder", None)
        body = [key.removeprefix("encoder.") for key in given]
        advice = encoder.advice(body) if isinstance(encoder, Encoder) else ""
        raise foreign(source, type(model).__name__, rest, given, own, advice or "give weights of the same variant")
    if first:
        log.warning("weights %s are for images of other channels: %s were adapted", source, _layers(first))
    copy_tensors(given, own, report.loaded)
    if other_classes:
        log.warning(
            "weights %s are for %d classes and the model has %d: %s start at random",
            source,
            theirs,
            ours,
            _layers(other_classes),
        )
    if absent:
        log.warning("weights %s have no auxiliary head: %s start at random", source, _layers(absent))
    if left_out:
        log.warning("weights %s have heads that the model does not: %s were left out", source, _layers(left_out))


def _classes(model: Model, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[int, int]:
    """Numbers of classes of the file and of the model; both 0 for models without classes."""
    layers = model.classifiers()
    if not layers:
        return 0, 0
    scores = _key_of(model, layers[0])
    return given.get(scores, own[scores]).shape[0], own[scores].shape[0]


def _named(model: Model, file: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the names that fit the model best."""
    candidates = [
        {name(key.removeprefix(prefix)): value for key, value in file.items() if key.startswith(prefix)}
        for prefix in PREFIXES
        for name in (str, model.translate)
    ]
    best = max(candidates, key=lambda tensors: len(tensors.keys() & own.keys()))
    return {key: value for key, value in best.items() if not (model.unread and key.startswith(model.unread))}


def _adapted(model: Model, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the tensors in the model's form, the encoder's made to fit its channels; see ``adapt`` of both."""
    given = model.adapt(given)
    for name, module in model.named_modules():
        if isinstance(module, Encoder):
            prefix = f"{name}."
            body = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
            rest = {key: value for key, value in given.items() if not key.startswith(prefix)}
            given = rest | {prefix + key: value for key, value in module.adapt(body).items()}
    return given


def _reshaped(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of linear layers for 1x1 convolutions, and the other way round."""

    def without_ones(tensor: Tensor) -> list[int]:
        return [size for size in tensor.shape if size > 1]

    return {
        key: value.reshape(own[key].shape) if key in own and without_ones(value) == without_ones(own[key]) else value
        for key, value in given.items()
    }


def _reads_images(given: Tensor, own: Tensor, channels: int | None) -> bool:
    """Whether these are kernels of a convolution that reads images, of ``channels`` here and others there."""
    return (
        own.dim() >= 4
        and given.dim() == own.dim()
        and own.shape[1] == channels != given.shape[1]
        and (given.shape[0], *given.shape[2:]) == (own.shape[0], *own.shape[2:])
    )


def _key_of(model: nn.Module, layer: nn.Module) -> str:
    """Name of a layer's weight."""
    return next(f"{name}.weight" for name, module in model.named_modules() if module is layer)


def _differs_by(given: Tensor, own: Tensor, more: int) -> bool:
    """Whether the shapes differ in nothing but ``more`` classes."""
    return (
        more != 0
        and given.dim() == own.dim()
        and all(theirs - ours in (0, more) for theirs, ours in zip(given.shape, own.shape, strict=True))
    )


def _auxiliary(model: Model) -> tuple[str, ...]:
    """Prefixes of the parts that hold auxiliary heads, and not the main one."""
    parts = [_key_of(model, layer).split(".")[0] for layer in model.classifiers()]
    return tuple(f"{name}." for name in set(parts[1:]) - set(parts[:1]))


def _is_left_out(model: Model, key: str) -> bool:
    """Whether a tensor belongs to a part that the model was built without: None, or an empty list."""
    part = getattr(model, key.split(".")[0], key)
    return part is None or (isinstance(part, nn.ModuleList) and len(part) == 0)


def _layers(keys: list[str]) -> str:
    return ", ".join(dict.fromkeys(key.rpartition(".")[0] for key in keys))

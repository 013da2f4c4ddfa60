"""Encoders by name: ``create_encoder("resnet50", output_stride=8)``, ``list_encoders()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from segmodels.encoders.base import Encoder
from segmodels.encoders.freezing import freeze, freeze_batch_norm
from segmodels.encoders.pretrained import named_weights, resolved
from segmodels.encoders.timm_encoder import TIMM, TimmEncoder, check_name
from segmodels.encoders.weights import load_weights
from segmodels.registry import Registry

ENCODERS: Registry[Encoder, None] = Registry(
    "encoder", "segmodels.encoders", "many models take as their option encoder"
)
Builder = TypeVar("Builder", bound=Callable[..., Encoder])
FREEZING: Mapping[str, Any] = {"frozen_stages": int, "frozen_batch_norm": bool}
"""Options of every encoder, and their types."""


def register_encoder(name: str) -> Callable[[Builder], Builder]:
    """Decorator for a function ``build(in_channels=3, output_stride=32, **options) -> Encoder``."""
    return ENCODERS.register(name, None)


def list_encoders() -> list[str]:
    """Names of all encoders, sorted; ``timm:NAME`` works beside them where timm is installed."""
    return ENCODERS.names()


def create_encoder(
    name: str,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: str | Path | None = None,
    frozen_stages: int = 0,
    frozen_batch_norm: bool = False,
    **options: Any,
) -> Encoder:
    """Build an encoder.

    Args:
        name: one of ``list_encoders()``, or ``timm:NAME``.
        in_channels: channels of the images; pretrained weights of the first layer are adapted to it
            (``adapt_channels``).
        output_stride: of the coarsest map; below the encoder's own the last stages keep their size and dilate their
            convolutions.
        weights: pretrained weights: a name of the table in ``pretrained`` (``imagenet``), or path or URI of a file
            under public key names, see ``load_weights``; None starts from random weights.
        frozen_stages: how many stages, from the first, do not train.
        frozen_batch_norm: all batch norms keep their statistics.
        options: of that encoder.

    Raises:
        InputError: unknown encoder (with the nearest names), unknown option, an output stride that the encoder does not
            offer, weights of another architecture (with the keys that differ).
    """
    encoder = _build(name, in_channels, output_stride, options)
    if weights is not None:
        load_weights(
            encoder,
            resolved(weights, name, encoder.form),
            translate=encoder.translate,
            ignore=encoder.classifier,
            adapt=encoder.adapt,
            advice=encoder.advice,
        )
    freeze(encoder, frozen_stages)
    if frozen_batch_norm:
        freeze_batch_norm(encoder)
    return encoder


def check_encoder(name: str, weights: str | Path | None, options: Mapping[str, Any]) -> None:
    """Check what ``create_encoder`` is given, as far as it goes without building the encoder; of timm's the name alone.

    Raises:
        InputError: as ``create_encoder``, for the names of encoder, options and published weights, and for the options'
            types.
    """
    if name.startswith(TIMM):
        check_name(name.removeprefix(TIMM))
        return
    ENCODERS.check_options(name, options, encoder_options(name), FREEZING)
    if weights is not None:
        named_weights(weights, name, form=None)


def encoder_options(name: str) -> set[str]:
    """Names of the options that ``create_encoder`` takes in ``options`` for that encoder; of timm's none are known."""
    if name.startswith(TIMM):
        return set()
    return {*ENCODERS[name].options, *FREEZING} - {"in_channels", "output_stride"}


def _build(name: str, in_channels: int, output_stride: int, options: dict[str, Any]) -> Encoder:
    if name.startswith(TIMM):
        return TimmEncoder(name.removeprefix(TIMM), in_channels, output_stride, **options)
    ENCODERS.check_options(name, options, encoder_options(name))
    return ENCODERS.built(name, options, in_channels=in_channels, output_stride=output_stride)

"""Encoders by name: ``create_encoder("resnet50", output_stride=8)``, ``list_encoders()``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segmodels.models.encoders.base import Encoder
from segmodels.models.registry import nearest

_BUILDERS: dict[str, Callable[..., Encoder]] = {}


def register_encoder(name: str) -> Callable[[Callable[..., Encoder]], Callable[..., Encoder]]:
    """Decorator for a function ``build(in_channels=3, output_stride=32, **options) -> Encoder``."""

    def register(build: Callable[..., Encoder]) -> Callable[..., Encoder]:
        if name in _BUILDERS:
            raise RuntimeError(f"encoder {name!r} is registered twice")
        _BUILDERS[name] = build
        return build

    return register


def _load_all() -> None:
    package = importlib.import_module("segmodels.models.encoders")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def list_encoders() -> list[str]:
    """Names of all encoders, sorted; ``timm:NAME`` works beside them where timm is installed."""
    _load_all()
    return sorted(_BUILDERS)


def create_encoder(name: str, in_channels: int = 3, output_stride: int = 32, weights: str | Path | None = None, **options: Any) -> Encoder:
    """Build an encoder.

    Args:
        name: one of ``list_encoders()``.
        in_channels: channels of the images; pretrained weights of the first layer are adapted to it.
        output_stride: of the coarsest map; below the encoder's own the last stages keep their size and dilate their convolutions.
        weights: path or URI of pretrained weights, see ``load_weights``; None starts from random weights.
        options: of that encoder.

    Raises:
        InputError: unknown encoder (with the nearest names), unknown option, an output stride that the encoder does not offer, weights of another architecture.
    """
    known = list_encoders()
    if name not in known:
        raise nearest("encoder", name, known)
    build = _BUILDERS[name]
    allowed = [key for key in inspect.signature(build).parameters if key not in ("in_channels", "output_stride")]
    for option in options:
        if option not in allowed:
            raise nearest(f"option of encoder {name!r}", option, allowed)
    return build(in_channels=in_channels, output_stride=output_stride, **options)

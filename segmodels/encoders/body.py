"""The encoder of a model, as a value: ``Body("resnet50", weights="resnet50.safetensors")``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import ENCODERS, check_encoder, create_encoder
from segmodels.encoders.timm_encoder import TIMM
from segmodels.errors import InputError

DEEP_STEM: Mapping[str, Any] = {"deep_stem": True}
"""Options of the ResNet of mmsegmentation's context models: three 3x3 convolutions for the 7x7 one (its V1c)."""


def grid_option(multi_grid: Sequence[int] | None) -> dict[str, Any]:
    """The encoder's option ``multi_grid`` where one is given; ResNet alone has it (DeepLab v3, 1706.05587, 3.2.1)."""
    return {"multi_grid": multi_grid} if multi_grid else {}


@dataclass(frozen=True)
class Body:
    """Which encoder, from which weights, with which options.

    Attributes:
        encoder: name in the encoder registry, or ``timm:NAME``.
        weights: name, path or URI of pretrained weights, see ``create_encoder``; None starts from random ones.
        options: of that encoder, and ``frozen_stages`` and ``frozen_batch_norm``; see ``create_encoder``.
    """

    encoder: str
    weights: str | Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, in_channels: int = 3, output_stride: int = 32, **own: Any) -> Encoder:
        """The encoder for images of ``in_channels``; ``own`` are options that the model sets, under those of the body.

        Raises:
            InputError: as ``create_encoder``.
        """
        self._check_free()
        return create_encoder(self.encoder, in_channels, output_stride, self.weights, **{**own, **self.options})

    def check(self) -> None:
        """Check the names of encoder, weights and options, and the options' types, without building the encoder.

        Raises:
            InputError: as ``check_encoder``, or for an option that the model sets.
        """
        self._check_free()
        check_encoder(self.encoder, self.weights, self.options)

    def replaced(
        self,
        encoder: str | None = None,
        encoder_weights: str | Path | None = None,
        encoder_options: Mapping[str, Any] | None = None,
    ) -> Body:
        """This body with another encoder, other weights or further options, where they are given.

        An encoder of the same architecture (ResNet-18 for ResNet-50) keeps this body's options, another one does not.

        Raises:
            InputError: an unknown encoder, or options that are not a mapping.
        """
        name = self.encoder if encoder is None else encoder
        if encoder_options is not None and not isinstance(encoder_options, Mapping):
            raise InputError(
                f"encoder_options is {encoder_options!r}, expected a mapping of options of encoder {name!r}:"
                " {frozen_stages: 2}"
            )
        kept = self.options if _architecture(name) == _architecture(self.encoder) else {}
        weights = self.weights if encoder_weights is None and name == self.encoder else encoder_weights
        return Body(name, weights, {**kept, **(encoder_options or {})})

    def _check_free(self) -> None:
        for option in ("in_channels", "output_stride"):
            if option in self.options:
                raise InputError(
                    f"{option} is among the options of encoder {self.encoder!r}, but the model sets it: take it out of"
                    " encoder_options, and set the model's own option if it has one"
                )


def _architecture(encoder: str) -> str:
    """The file that an encoder is written in, which it shares with its other sizes; of timm the name alone."""
    return encoder if encoder.startswith(TIMM) else ENCODERS[encoder].build.__module__

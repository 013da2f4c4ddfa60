"""SegNeXt (Guo et al.: SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022,
arXiv 2209.08575).

The convolutional body MSCAN and a light Hamburger head on its last three stages: a low-rank reconstruction of all
positions' features by non-negative
matrix factorisation (Geng et al.: Is Attention Better Than Matrix Decomposition?, ICLR 2021) stands for global
    attention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import create_encoder
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Guo et al.: SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022, arXiv"
    " 2209.08575"
)


class MatrixFactorisation(nn.Module):
    """Replace features ``(B, C, H, W) >= 0`` by their best product of ``rank`` non-negative bases and coefficients (Lee
    and Seung 1999).

    The multiplicative updates run without gradient; it flows through the last update of the coefficients only, which is
    as good and stable ("one-step gradient", Geng et al. 2021). Bases start at random: anew at each training step, at
    the same values in evaluation, so that predictions repeat and the module exports.
    """

    bases: Tensor

    def __init__(self, channels: int, rank: int = 16, training_steps: int = 6, steps: int = 7) -> None:
        super().__init__()
        self.training_steps = training_steps
        self.steps = steps
        values = torch.tensor(np.random.default_rng(0).random((channels, rank), dtype=np.float32))
        self.register_buffer("bases", values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # 1e-6 and the ratios need float32
            return self._factorise(x.float().flatten(2)).unflatten(2, x.shape[-2:])

    def _factorise(self, x: Tensor) -> Tensor:
        start = (
            torch.rand(x.shape[0], *self.bases.shape, device=x.device)
            if self.training
            else self.bases.expand(x.shape[0], -1, -1)
        )
        with torch.no_grad():
            bases = functional.normalize(start, dim=1)
            coefficients = (x.transpose(1, 2) @ bases).softmax(dim=-1)
            for _ in range(self.training_steps if self.training else self.steps):
                coefficients = _update(coefficients, x.transpose(1, 2), bases)
                bases = _update(bases, x, coefficients)
        return bases @ _update(coefficients, x.transpose(1, 2), bases).transpose(1, 2)


def _update(factor: Tensor, product: Tensor, other: Tensor) -> Tensor:
    """One multiplicative update of ``factor`` in ``product ~ factor @ other.T``; signs and shape stay, the squared
    error never grows.
    """
    return factor * (product @ other) / (factor @ (other.transpose(1, 2) @ other) + 1e-6)


class Hamburger(nn.Module):
    """1x1, ReLU, factorisation, 1x1 with group norm, and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ham_in = nn.Conv2d(channels, channels, 1)
        self.ham = MatrixFactorisation(channels)
        self.ham_out = ConvNormAct(channels, channels, 1, norm=_group_norm, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.ham_out(self.ham(functional.relu(self.ham_in(x)))))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


class SegNeXt(nn.Module):
    """The maps at strides 8, 16 and 32 side by side at stride 8, squeezed to ``channels``, Hamburger, classes. Any
    input size.
    """

    def __init__(self, encoder: Encoder, num_classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.squeeze = ConvNormAct(sum(encoder.channels[-3:]), channels, 1, norm=_group_norm)
        self.hamburger = Hamburger(channels)
        self.align = ConvNormAct(channels, channels, 1, norm=_group_norm)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> PixelOutput:
        maps = self.encoder(images)[-3:]
        x = torch.cat([resize(features, maps[0].shape[-2:]) for features in maps], dim=1)
        x = self.align(self.hamburger(self.squeeze(x)))
        return PixelOutput(resize(self.conv_seg(self.dropout(x)), images.shape[-2:]))


def _register(letter: str, channels: int, parameters: int, gmac: float, paper_miou: float) -> None:
    name = f"mscan_{letter}"
    card = Card(
        PAPER,
        2022,
        default_encoder=name,
        parameters=parameters,
        num_classes=150,
        gmac=gmac,
        source=f"specification [M]: mmseg segnext_mscan-{letter}",
        result=f"ADE20K val: mIoU {paper_miou} (paper)",
    )

    @register_model(f"segnext_{letter}", card)
    def build(
        num_classes: int,
        in_channels: int = 3,
        encoder: str = name,
        encoder_weights: str | None = None,
        encoder_options: dict[str, Any] | None = None,
    ) -> nn.Module:
        return SegNeXt(
            create_encoder(encoder, in_channels, weights=encoder_weights, **(encoder_options or {})),
            num_classes,
            channels,
        )


_register("t", 256, 4_263_414, 6.40, 41.1)
_register("s", 256, 13_932_886, 15.65, 44.3)
_register("b", 512, 27_636_310, 32.69, 48.5)
_register("l", 1024, 48_926_550, 65.97, 51.0)

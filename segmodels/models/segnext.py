"""SegNeXt (Guo et al.: SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022,
arXiv 2209.08575).

The convolutional body MSCAN and a light Hamburger head on its last three stages: a low-rank reconstruction of all
positions' features by non-negative matrix factorisation (Geng et al.: Is Attention Better Than Matrix Decomposition?,
ICLR 2021) stands for global attention.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct, group_norm, resize
from segmodels.layers.names import Names
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Guo et al.: SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS 2022, arXiv"
    " 2209.08575"
)
STRIDES = (8, 16, 32)


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
        self.ham_out = ConvNormAct(channels, channels, 1, norm=group_norm, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.ham_out(self.ham(functional.relu(self.ham_in(x)))))


class SegNeXt(Model):
    """The maps at strides 8, 16 and 32 side by side at stride 8, squeezed to ``channels``, Hamburger, classes. Any
    input size.
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.", ""),
        (r"^hamburger\.ham_in\.conv\.", "hamburger.ham_in."),
    )

    def __init__(self, encoder: Encoder, num_classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.squeeze = ConvNormAct(sum(encoder.channels_at(STRIDES)), channels, 1, norm=group_norm)
        self.hamburger = Hamburger(channels)
        self.align = ConvNormAct(channels, channels, 1, norm=group_norm)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder.maps(images, STRIDES)
        x = torch.cat([resize(features, maps[0].shape[-2:]) for features in maps], dim=1)
        x = self.align(self.hamburger(self.squeeze(x)))
        return PixelOutput(resize(self.conv_seg(self.dropout(x)), images.shape[-2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.conv_seg]


RECIPE: dict[str, Any] = {
    "num_classes": 150,
    "optimizer": "adamw",
    "lr": 6e-5,
    "weight_decay": 0.01,
    "schedule": "polynomial",
    "batch_size": 16,
}  # section 4.2, ADE20K


@register_model(
    "segnext_t",
    Card(
        PAPER,
        2022,
        parameters=4_263_414,
        gmac=6.40,
        source="mmsegmentation 1.2.2 segnext_mscan-t, counted",
        result="ADE20K val: mIoU 41.1 (paper)",
        **RECIPE,
    ),
)
def segnext_t(num_classes: int, in_channels: int = 3, body: Body = Body("mscan_t")) -> SegNeXt:
    """SegNeXt-T, the tiny one: a head of 256 channels."""
    return SegNeXt(body.build(in_channels), num_classes, channels=256)


@register_model(
    "segnext_s",
    Card(
        PAPER,
        2022,
        parameters=13_932_886,
        gmac=15.65,
        source="mmsegmentation 1.2.2 segnext_mscan-s, counted",
        result="ADE20K val: mIoU 44.3 (paper)",
        **RECIPE,
    ),
)
def segnext_s(num_classes: int, in_channels: int = 3, body: Body = Body("mscan_s")) -> SegNeXt:
    """SegNeXt-S, the small one: a head of 256 channels."""
    return SegNeXt(body.build(in_channels), num_classes, channels=256)


@register_model(
    "segnext_b",
    Card(
        PAPER,
        2022,
        parameters=27_636_310,
        gmac=32.69,
        source="mmsegmentation 1.2.2 segnext_mscan-b, counted",
        result="ADE20K val: mIoU 48.5 (paper)",
        **RECIPE,
    ),
)
def segnext_b(num_classes: int, in_channels: int = 3, body: Body = Body("mscan_b")) -> SegNeXt:
    """SegNeXt-B, the base one: a head of 512 channels."""
    return SegNeXt(body.build(in_channels), num_classes, channels=512)


@register_model(
    "segnext_l",
    Card(
        PAPER,
        2022,
        parameters=48_926_550,
        gmac=65.97,
        source="mmsegmentation 1.2.2 segnext_mscan-l, counted",
        result="ADE20K val: mIoU 51.0 (paper)",
        **RECIPE,
    ),
)
def segnext_l(num_classes: int, in_channels: int = 3, body: Body = Body("mscan_l")) -> SegNeXt:
    """SegNeXt-L, the large one: a head of 1024 channels."""
    return SegNeXt(body.build(in_channels), num_classes, channels=1024)

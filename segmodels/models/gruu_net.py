"""GRUU-Net: Wollmann et al.: GRUU-Net: Integrated convolutional and gated recurrent neural network for cell
segmentation, Medical Image Analysis 56, 2019.

A state at full resolution is refined step by step by a convolutional gated recurrent unit. Each step, a full-resolution
dense unit (FRDU), joins the max-pooled state with the map of the step before, runs a dense block at its scale, and
hands the result, enlarged, to the recurrent unit.

No code of the authors exists. The scales, the stem, the recurrent unit and the ends of the unit are the paper's; the
channels per step and the dense block (three layers of growth 32) are those of the public reimplementations,
unconfirmed. A step's result is brought to the state's channels before it is enlarged, as in the full-resolution
residual networks (Pohlen 2017) that the design goes back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct, check_images, resize
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Wollmann et al.: GRUU-Net: Integrated convolutional and gated recurrent neural network for cell segmentation."
    " Medical Image Analysis 56, 2019"
)
WIDTHS = (64, 128, 256, 512, 512, 256, 128, 64, 32)
_GROWTH = 32
_leaky_relu = partial(nn.LeakyReLU, 0.2, inplace=True)


class GRUUNet(Model):
    """One FRDU per entry of ``widths``, at 1/2, 1/4, … down to the middle one and back up to 1/2, for images of any
    size.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, state_channels: int = 32
    ) -> None:
        super().__init__()
        if len(widths) % 2 == 0 or min(widths, default=0) < 1:
            raise InputError(
                f"widths is {list(widths)}, expected an odd number of positive channel counts, one per step: down,"
                " middle, up"
            )
        self.in_channels = in_channels
        levels = (len(widths) + 1) // 2
        self.multiple = 2**levels
        self.stem = ConvNormAct(in_channels, state_channels, 5, activation=_leaky_relu)
        self.factors = [2 ** (levels - abs(levels - 1 - step)) for step in range(len(widths))]
        self.units = nn.ModuleList(
            FullResolutionDenseUnit(i, o, state_channels)
            for i, o in zip([state_channels, *widths], widths, strict=False)
        )
        self.residual = nn.Sequential(
            ConvNormAct(state_channels, state_channels, activation=_leaky_relu),
            ConvNormAct(state_channels, state_channels, activation=None),
        )
        self.head = nn.Conv2d(state_channels, num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        state = features = self.stem(pad_to_multiple(images, self.multiple))
        previous = 1
        for unit, factor in zip(self.units, self.factors, strict=True):
            if factor > previous:
                features = functional.max_pool2d(features, 2)
            else:
                features = resize(features, [2 * side for side in features.shape[2:]])
            state, features = unit(state, features, factor)
            previous = factor
        state = functional.leaky_relu(state + self.residual(state), 0.2)
        return PixelOutput(crop(self.head(state), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]


class FullResolutionDenseUnit(nn.Module):
    """One step: (state (B, S, H, W), map (B, in, H/f, W/f)) -> (new state, map (B, out, H/f, W/f))."""

    def __init__(self, in_channels: int, out_channels: int, state_channels: int) -> None:
        super().__init__()
        self.fuse = ConvNormAct(in_channels + state_channels, out_channels, 1, activation=None)
        self.dense = nn.ModuleList(_dense_layer(out_channels + depth * _GROWTH) for depth in range(3))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(out_channels + 3 * _GROWTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels + 3 * _GROWTH, out_channels, 1),
        )
        self.project = ConvNormAct(out_channels, state_channels, 1, activation=None)
        self.recurrence = ConvGRU(state_channels, state_channels)

    def forward(self, state: Tensor, features: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        features = self.fuse(torch.cat([functional.max_pool2d(state, factor), features], dim=1))
        for layer in self.dense:
            features = torch.cat([features, layer(features)], dim=1)
        features = self.transition(features)
        return self.recurrence(resize(self.project(features), state.shape[2:]), state), features


class ConvGRU(nn.Module):
    """Gated recurrent unit with 3x3 convolutions and, for the candidate, leaky ReLU.

    z, r = sigmoid(W x + U h + b); candidate = LReLU(W x + U (r h) + b); new state = z h + (1 - z) candidate: z keeps.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(in_channels, 3 * channels, 3, padding=1)  # for z, r and the candidate
        self.gates = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)  # of the state, for z and r
        self.candidate = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # of the state that r lets through

    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        """(B, in, H, W), (B, channels, H, W) -> (B, channels, H, W)."""
        channels = state.shape[1]
        from_input = self.input(features)
        keep, reset = torch.sigmoid(from_input[:, : 2 * channels] + self.gates(state)).chunk(2, dim=1)
        candidate = functional.leaky_relu(from_input[:, 2 * channels :] + self.candidate(reset * state), 0.2)
        return torch.lerp(candidate, state, keep)


def _dense_layer(in_channels: int) -> nn.Sequential:
    """Bottleneck layer of DenseNet (Huang 2017): normalised first, 1x1 to twice the growth, 3x3 to the growth."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, 2 * _GROWTH, 1, bias=False),
        nn.BatchNorm2d(2 * _GROWTH),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * _GROWTH, _GROWTH, 3, padding=1, bias=False),
    )


@register_model(
    "gruu_net", Card(PAPER, 2019, parameters=3_096_917, gmac=153.56, source="own count; the paper's is not known")
)
def gruu_net(
    num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, state_channels: int = 32
) -> GRUUNet:
    """GRUU-Net; ``widths`` are the channels of the steps on the way down, in the middle and up, ``state_channels``
    those of the full-resolution state.
    """
    return GRUUNet(num_classes, in_channels, widths, state_channels)

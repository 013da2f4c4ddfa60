"""Attention U-Net: Oktay et al., MIDL 2018, arXiv 1804.03999.

``attention_unet_original`` is the paper's: additive grid attention, where the coarser decoder level gates the encoder's
map, 2-D or 3-D (the paper), 16-256 channels, deep supervision. ``attention_unet`` is the 2-D form in common use:
64-1024 channels, all skips gated, at equal resolution after the up-convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, check_images, check_spatial_dims, check_widths, relu, resize
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.models.unet import WIDTHS, UNet
from segmodels.outputs import PixelOutput

PAPER = "Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas. MIDL 2018, arXiv 1804.03999"
ORIGINAL_WIDTHS = (16, 32, 64, 128, 256)


class AttentionGate(nn.Module):
    """alpha * x with alpha = sigmoid(psi(relu(W_x x + W_g g))), every map a 1x1 convolution with batch normalisation; g
    and x of one size.
    """

    def __init__(self, gate_channels: int, skip_channels: int, inner_channels: int) -> None:
        super().__init__()
        self.gate = ConvNormAct(gate_channels, inner_channels, 1, bias=True, activation=None)
        self.skip = ConvNormAct(skip_channels, inner_channels, 1, bias=True, activation=None)
        self.psi = ConvNormAct(inner_channels, 1, 1, bias=True, activation=nn.Sigmoid)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        return skip * self.psi(torch.relu(self.gate(gate) + self.skip(skip)))


class GridAttentionGate(nn.Module):
    """The paper's gate (section 2.1, figure 2): alpha is computed on the grid of g, half that of x, and interpolated
    linearly.

    W_x is 2x2(x2) with stride 2 and no bias, W_g and psi are 1x1(x1) with bias; as many inner channels as x has
    (authors' code).
    """

    def __init__(self, gate_channels: int, skip_channels: int, spatial_dims: int) -> None:
        super().__init__()
        conv = _CONV[spatial_dims]
        self.gate = conv(gate_channels, skip_channels, 1)
        self.skip = conv(skip_channels, skip_channels, 2, stride=2, bias=False)
        self.psi = conv(skip_channels, 1, 1)

    def coefficients(self, gate: Tensor, skip: Tensor) -> Tensor:
        """alpha in (0, 1), (B, 1, *size of skip)."""
        alpha = torch.sigmoid(self.psi(torch.relu(self.skip(skip) + self.gate(gate))))
        return resize(alpha, skip.shape[2:])

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        return skip * self.coefficients(gate, skip)


class AttentionUNet(UNet):
    """The 2-D form in common use: a U-Net whose convolutions have biases and whose skips are gated. Any height and
    width.
    """

    def stage(self, in_channels: int, out_channels: int) -> nn.Module:
        return _double_conv(in_channels, out_channels, 2)

    def up_stage(self, in_channels: int, out_channels: int) -> nn.Module:
        return _UpBlock(in_channels, out_channels)


class AttentionUNetOriginal(Model):
    """The paper's form for images (B, in, H, W) or volumes (B, in, D, H, W) of any size; the finest skip is not gated
    (section 2.2).

    In training ``auxiliary`` holds the logits of the coarser decoder levels, coarsest first, interpolated to the
    input's size (deep supervision). The authors' code adds 1x1 convolutions after each gate and fuses the levels'
    logits by a further one; the paper names neither, and is followed.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = ORIGINAL_WIDTHS,
        spatial_dims: int = 2,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.spatial_dims = check_spatial_dims(spatial_dims)
        conv = _CONV[spatial_dims]
        self.encoder = nn.ModuleList(
            _double_conv(i, o, spatial_dims) for i, o in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = _POOL[spatial_dims](2)
        self.gating = nn.Sequential(
            conv(widths[-1], widths[-1], 1), _NORM[spatial_dims](widths[-1]), relu()
        )  # the coarsest gating signal
        self.gates = nn.ModuleList(
            GridAttentionGate(i, o, spatial_dims) for i, o in zip(widths[:1:-1], widths[-2:0:-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            _double_conv(i + o, o, spatial_dims) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.auxiliary_heads = nn.ModuleList(
            conv(width, num_classes, 1) for width in (widths[-2:0:-1] if auxiliary else [])
        )
        self.head = conv(widths[0], num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels, self.spatial_dims)
        skips = [self.encoder[0](pad_to_multiple(images, 2 ** len(self.decoder)))]
        for stage in self.encoder[1:]:
            skips.append(stage(self.pool(skips[-1])))
        features = skips.pop()
        gate = self.gating(features)
        coarse = []
        for level, convs in enumerate(self.decoder):
            skip = skips.pop()
            attended = self.gates[level](gate, skip) if skips else skip
            features = gate = convs(torch.cat([attended, resize(features, skip.shape[2:])], dim=1))
            coarse.append(features)
        auxiliary: tuple[Tensor, ...] = ()
        if self.training:
            size = features.shape[2:]
            auxiliary = tuple(
                crop(resize(head(maps), size), images.shape[2:])
                for head, maps in zip(self.auxiliary_heads, coarse, strict=False)
            )
        return PixelOutput(crop(self.head(features), images.shape[2:]), auxiliary)

    def classifiers(self) -> list[nn.Module]:
        return [self.head, *self.auxiliary_heads]


class _UpBlock(nn.Module):
    """Nearest up-sampling and 3x3 convolution, gate on the skip, concatenation, convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), ConvNormAct(in_channels, out_channels, bias=True, activation=relu)
        )
        self.gate = AttentionGate(out_channels, out_channels, out_channels // 2)
        self.convs = _double_conv(2 * out_channels, out_channels, 2)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        up = self.up(deep)
        return self.convs(torch.cat([self.gate(up, skip), up], dim=1))


_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def _double_conv(in_channels: int, out_channels: int, spatial_dims: int) -> nn.Sequential:
    """Twice: 3x3(x3) convolution with bias (as both public implementations have it), batch normalisation, ReLU."""
    conv, norm = _CONV[spatial_dims], _NORM[spatial_dims]
    layers = ([conv(i, out_channels, 3, padding=1), norm(out_channels), relu()] for i in (in_channels, out_channels))
    return nn.Sequential(*(layer for group in layers for layer in group))


@register_model(
    "attention_unet",
    Card(
        PAPER,
        2018,
        parameters=34_879_873,
        gmac=266.04,
        source="own count; the binary form has the 34,878,573 of public implementations",
    ),
)
def attention_unet(num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS) -> AttentionUNet:
    """Attention U-Net in the 2-D form of most public implementations."""
    return AttentionUNet(num_classes, in_channels, widths)


@register_model(
    "attention_unet_original",
    Card(
        PAPER,
        2018,
        parameters=2_166_455,
        gmac=14.46,
        source="own count",
        result="CT-82 pancreas Dice 84.0 (paper), volumes",
        losses={"dice": 1.0},
    ),
)
def attention_unet_original(
    num_classes: int,
    in_channels: int = 3,
    widths: Sequence[int] = ORIGINAL_WIDTHS,
    spatial_dims: int = 2,
    auxiliary: bool = True,
) -> AttentionUNetOriginal:
    """Attention U-Net as published; ``spatial_dims`` 3 for volumes."""
    return AttentionUNetOriginal(num_classes, in_channels, widths, spatial_dims, auxiliary)

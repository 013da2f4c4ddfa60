"""Darknet with cross-stage partial connections (Wang et al.: CSPNet, CVPR workshops 2020, arXiv 1911.11929), in four
sizes: a 6x6 stem, and in each stage a halving convolution and a block with 3, 6, 9 and 3 residual layers (times the
depth) on half of its channels. Max-pools at several scales (He 2014, 1406.4729) follow the last stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.layers.blocks import check_images
from segmodels.layers.cross_stage import ConvNormSiLU, PartialBlock

WIDTHS = (64, 128, 256, 512, 1024)
LAYERS = (3, 6, 9, 3)


class PooledPyramid(nn.Module):
    """Beside the map its max-pools over 5, 9 and 13 pixels: three pools over 5 pixels in a row."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduced = ConvNormSiLU(channels, channels // 2, 1)
        self.joined = ConvNormSiLU(4 * (channels // 2), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduced(x)]
        for _ in range(3):
            maps.append(functional.max_pool2d(maps[-1], 5, 1, 2))
        return self.joined(torch.cat(maps, dim=1))


class CSPDarknet(Encoder):
    """Maps at strides 2, 4, 8, 16 and 32.

    Args:
        width: factor on the 64, 128, 256, 512 and 1024 channels of the largest form.
        depth: factor on the layers of its blocks.
        output_stride: 32.
    """

    first_layer = "stem.conv.weight"

    def __init__(self, width: float, depth: float, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        check_output_stride("CSPDarknet", output_stride, (32,))
        self.in_channels = in_channels
        self.channels = tuple(round(width * channels) for channels in WIDTHS)
        self.strides = (2, 4, 8, 16, 32)
        self.stem = ConvNormSiLU(in_channels, self.channels[0], 6, 2, padding=2)
        self.blocks = nn.ModuleList()
        for stage, layers in enumerate(LAYERS):
            before, after = self.channels[stage : stage + 2]
            block = PartialBlock(after, after, round(depth * layers))
            self.blocks.append(nn.Sequential(ConvNormSiLU(before, after, 3, 2), block))
        self.pooled = PooledPyramid(self.channels[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        maps = [self.stem(images)]
        for stage in self.blocks:
            maps.append(stage(maps[-1]))
        return [*maps[:-1], self.pooled(maps[-1])]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        return [[self.stem], *([stage] for stage in self.blocks[:-1]), [self.blocks[-1], self.pooled]]


@register_encoder("csp_darknet_n")
def csp_darknet_n(in_channels: int = 3, output_stride: int = 32) -> CSPDarknet:
    """A quarter of the channels, a third of the layers."""
    return CSPDarknet(1 / 4, 1 / 3, in_channels, output_stride)


@register_encoder("csp_darknet_s")
def csp_darknet_s(in_channels: int = 3, output_stride: int = 32) -> CSPDarknet:
    """Half of the channels, a third of the layers."""
    return CSPDarknet(1 / 2, 1 / 3, in_channels, output_stride)


@register_encoder("csp_darknet_m")
def csp_darknet_m(in_channels: int = 3, output_stride: int = 32) -> CSPDarknet:
    """Three quarters of the channels, two thirds of the layers."""
    return CSPDarknet(3 / 4, 2 / 3, in_channels, output_stride)


@register_encoder("csp_darknet_l")
def csp_darknet_l(in_channels: int = 3, output_stride: int = 32) -> CSPDarknet:
    """64 to 1024 channels; 3, 6, 9 and 3 layers."""
    return CSPDarknet(1.0, 1.0, in_channels, output_stride)

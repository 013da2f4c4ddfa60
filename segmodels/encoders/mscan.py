"""MSCAN, the body of SegNeXt (Guo et al., SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation,
NeurIPS 2022, arXiv 2209.08575).

The keys are those of the authors' release; mmsegmentation's load too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.layers.blocks import DropPath, check_images, drop_path_rates, initialise_convolutions


class MultiScaleConvAttention(nn.Module):
    """Depthwise 5x5, then strips of 7, 11 and 21 beside it; their sum, mixed by a 1x1 convolution, weighs the input
    (equations 1 and 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        for i, length in enumerate((7, 11, 21)):
            self.add_module(
                f"conv{i}_1", nn.Conv2d(channels, channels, (1, length), padding=(0, length // 2), groups=channels)
            )
            self.add_module(
                f"conv{i}_2", nn.Conv2d(channels, channels, (length, 1), padding=(length // 2, 0), groups=channels)
            )
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        strips = [self.get_submodule(f"conv{i}_2")(self.get_submodule(f"conv{i}_1")(near)) for i in range(3)]
        return self.conv3(near + strips[0] + strips[1] + strips[2]) * x


class Attention(nn.Module):
    """1x1, GELU, multi-scale convolutional attention, 1x1, and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = MultiScaleConvAttention(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(functional.gelu(self.proj_1(x))))


class DepthwiseConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x)


class Mlp(nn.Module):
    """1x1 expansion, 3x3 depthwise, GELU, 1x1 back."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels * ratio, 1)
        self.dwconv = DepthwiseConv(channels * ratio)
        self.fc2 = nn.Conv2d(channels * ratio, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.dwconv(self.fc1(x))))


class Block(nn.Module):
    """Attention and MLP, each on a batch-normalised input, scaled per channel (from 0.01) and, in training, left out
    for a share of the images.
    """

    def __init__(self, channels: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels, ratio)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """3x3 convolution of stride 2 and batch norm; the first of the network is a pair of them with a GELU between."""

    def __init__(self, in_channels: int, channels: int, first: bool) -> None:
        super().__init__()
        if first:
            half = channels // 2
            self.proj: nn.Module = nn.Sequential(
                nn.Conv2d(in_channels, half, 3, 2, 1),
                nn.BatchNorm2d(half),
                nn.GELU(),
                nn.Conv2d(half, channels, 3, 2, 1),
                nn.BatchNorm2d(channels),
            )
            self.norm: nn.Module = nn.Identity()
        else:
            self.proj = nn.Conv2d(in_channels, channels, 3, 2, 1)
            self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class MSCAN(Encoder):
    """Maps: after each of the four stages (strides 4, 8, 16, 32), layer-normalised over channels.

    Args:
        widths, depths: channels and blocks of each stage.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
    """

    classifier = ("head.",)
    first_layer = "patch_embed1.proj.0.weight"

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        in_channels: int = 3,
        output_stride: int = 32,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        check_output_stride("MSCAN", output_stride, (32,))
        self.in_channels = in_channels
        self.channels = tuple(widths)
        self.strides = (4, 8, 16, 32)
        rates = drop_path_rates(drop_path, sum(depths))
        channels = in_channels
        for i, (width, depth, ratio) in enumerate(zip(widths, depths, (8, 8, 4, 4), strict=True), start=1):
            self.add_module(f"patch_embed{i}", PatchEmbed(channels, width, first=i == 1))
            self.add_module(f"block{i}", nn.ModuleList(Block(width, ratio, rates.pop(0)) for _ in range(depth)))
            self.add_module(f"norm{i}", nn.LayerNorm(width))
            channels = width
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        maps, x = [], images
        for embed, blocks, norm in self.stages():
            x = embed(x)
            for block in blocks.children():
                x = block(x)
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        return [[self.get_submodule(f"{part}{i}") for part in ("patch_embed", "block", "norm")] for i in (1, 2, 3, 4)]

    def translate(self, key: str) -> str:
        """In mmsegmentation the depthwise convolution of an MLP is not a module of its own."""
        return re.sub(r"\.mlp\.dwconv\.(weight|bias)$", r".mlp.dwconv.dwconv.\1", key)


@register_encoder("mscan_t")
def mscan_t(in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.1) -> MSCAN:
    """MSCAN-T, the tiny one."""
    return MSCAN((32, 64, 160, 256), (3, 3, 5, 2), in_channels, output_stride, drop_path)


@register_encoder("mscan_s")
def mscan_s(in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.1) -> MSCAN:
    """MSCAN-S, the small one."""
    return MSCAN((64, 128, 320, 512), (2, 2, 4, 2), in_channels, output_stride, drop_path)


@register_encoder("mscan_b")
def mscan_b(in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.1) -> MSCAN:
    """MSCAN-B, the base one."""
    return MSCAN((64, 128, 320, 512), (3, 3, 12, 3), in_channels, output_stride, drop_path)


@register_encoder("mscan_l")
def mscan_l(in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.3) -> MSCAN:
    """MSCAN-L, the large one."""
    return MSCAN((64, 128, 320, 512), (3, 5, 27, 3), in_channels, output_stride, drop_path)

"""UPerNet's decoder (Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.fpn import top_down
from segmodels.layers.names import Names
from segmodels.layers.pyramid_pooling import PyramidPooling


class UPerFeatures(NamedTuple):
    """Maps for the heads; h and w are the height and width of the finest."""

    fused: Tensor  # (B, channels, h, w), all levels of the pyramid in one
    pyramid: list[Tensor]  # (B, channels, h_i, w_i), from fine to coarse; the last is the output of pyramid pooling


class UPerDecoder(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid from there down, and its levels side by side through a 3x3
    convolution (section 3.1).

    Batch norm and ReLU after every convolution. Maps ``(B, in_channels[i], h_i, w_i)``, from fine to coarse, of any
    sizes.
    """

    published: ClassVar[Names] = (
        (r"^psp_modules\.", "pooling.stages."),
        (r"^bottleneck\.", "pooling.bottleneck."),
        (r"^lateral_convs\.", "laterals."),
        (r"^fpn_convs\.", "outputs."),
        (r"^fpn_bottleneck\.", "fuse."),
    )

    def __init__(self, in_channels: Sequence[int], channels: int = 512) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels)
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, 1) for width in in_channels[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels) for _ in in_channels[:-1])
        self.fuse = ConvNormAct(len(in_channels) * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> UPerFeatures:
        laterals = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=False)]
        *sums, pooled = top_down([*laterals, self.pooling(maps[-1])], mode="bilinear")
        pyramid = [*(output(x) for output, x in zip(self.outputs, sums, strict=True)), pooled]
        size = pyramid[0].shape[-2:]
        return UPerFeatures(self.fuse(torch.cat([resize(x, size) for x in pyramid], dim=1)), pyramid)

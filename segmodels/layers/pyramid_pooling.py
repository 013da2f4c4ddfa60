"""Pyramid pooling (Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.names import Names


class PyramidPooling(nn.Module):
    """Averages of the map over grids of several sizes, 1x1 convolution of each, all of them beside the map itself
    through a 3x3 convolution.

    ``(B, in_channels, h, w)`` to ``(B, channels, h, w)``. The grid of one cell has one value per channel and image, so
    that batch norm trains with batches of two or more only.

    Args:
        channels: of every branch and of the output. The paper gives a branch ``in_channels / len(sizes)``, which is 512
            with 2048 input channels.
        sizes: cells of the grids along height and width.
    """

    published: ClassVar[Names] = ((r"^psp_modules\.", "stages."),)

    def __init__(self, in_channels: int, channels: int = 512, sizes: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvNormAct(in_channels, channels, 1)) for size in sizes
        )
        self.bottleneck = ConvNormAct(in_channels + len(sizes) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([x, *(resize(stage(x), x.shape[-2:]) for stage in self.stages)], dim=1))

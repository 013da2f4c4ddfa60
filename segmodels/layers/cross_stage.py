"""Cross-stage partial blocks (Wang et al.: CSPNet, CVPR workshops 2020, arXiv 1911.11929), and the path aggregation
(Liu 2018, 1803.01534) made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, resize

ConvNormSiLU = partial(ConvNormAct, activation=nn.SiLU)


class PartialBlock(nn.Module):
    """Half of the channels go through layers of a 1x1 and a 3x3 convolution, the other half past them; a 1x1
    convolution joins both (CSPNet, section 3.1).

    Args:
        residual: each layer has a shortcut.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, residual: bool = True) -> None:
        super().__init__()
        half = channels // 2
        self.residual = residual
        self.through = ConvNormSiLU(in_channels, half, 1)
        self.past = ConvNormSiLU(in_channels, half, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(ConvNormSiLU(half, half, 1), ConvNormSiLU(half, half)) for _ in range(layers)
        )
        self.joined = ConvNormSiLU(2 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        through = self.through(x)
        for layer in self.layers:
            through = through + layer(through) if self.residual else layer(through)
        return self.joined(torch.cat([through, self.past(x)], dim=1))


class PartialAggregation(nn.Module):
    """Three maps, from fine to coarse and each half as large as the one before, to three of the same channels and
    sizes: from the coarsest to the finest and back, by partial blocks without shortcuts on concatenated maps.

    Args:
        channels: of the maps.
        layers: of each block.
    """

    def __init__(self, channels: Sequence[int], layers: int) -> None:
        super().__init__()
        fine, middle, coarse = channels

        def block(before: int, after: int) -> PartialBlock:
            return PartialBlock(before, after, layers, residual=False)

        self.narrow = nn.ModuleList([ConvNormSiLU(coarse, middle, 1), ConvNormSiLU(middle, fine, 1)])
        self.up = nn.ModuleList([block(2 * middle, middle), block(2 * fine, fine)])
        self.halve = nn.ModuleList([ConvNormSiLU(fine, fine, 3, 2), ConvNormSiLU(middle, middle, 3, 2)])
        self.down = nn.ModuleList([block(2 * fine, middle), block(2 * middle, coarse)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        top = self.narrow[0](coarse)
        between = self.narrow[1](self.up[0](_beside(top, middle)))
        found = [self.up[1](_beside(between, fine))]
        for halve, down, lateral in zip(self.halve, self.down, (between, top), strict=True):
            found.append(down(torch.cat([halve(found[-1]), lateral], dim=1)))
        return found


def _beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """The coarse map, enlarged, and the fine one."""
    return torch.cat([resize(coarse, fine.shape[-2:], "nearest"), fine], dim=1)

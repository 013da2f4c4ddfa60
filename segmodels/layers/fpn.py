"""Feature pyramid (Lin et al.: Feature Pyramid Networks for Object Detection, CVPR 2017, arXiv 1612.03144), and the
semantic branch on it (Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, resize


class FPN(nn.Module):
    """1x1 convolution of every map, coarse maps added to finer ones from the top down, 3x3 convolution of every sum; no
    non-linearity (section 3).

    Maps ``(B, in_channels[i], h_i, w_i)``, from fine to coarse, to as many maps ``(B, channels, h_i, w_i)``. Any sizes.

    Args:
        norm: normalisation after each convolution; None: none, as in the paper.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int = 256, norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_convolution(width, channels, 1, norm) for width in in_channels)
        self.outputs = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in in_channels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sums = top_down([lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)], mode="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]


def _convolution(
    in_channels: int, channels: int, kernel_size: int, norm: Callable[[int], nn.Module] | None
) -> nn.Module:
    """A plain convolution, or one with a normalisation."""
    if norm is not None:
        return ConvNormAct(in_channels, channels, kernel_size, norm=norm, activation=None)
    return nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2)


def top_down(maps: Sequence[Tensor], mode: str) -> list[Tensor]:
    """To each map, from fine to coarse and of equal channels, the sum of all coarser ones is added, enlarged by
    ``nearest`` or ``bilinear`` steps.
    """
    sums = [maps[-1]]
    for x in reversed(maps[:-1]):
        sums.append(x + resize(sums[-1], x.shape[-2:], mode))
    return sums[::-1]


class SemanticBranch(nn.Module):
    """Maps of a pyramid, each half as large as the one before, enlarged to the size of the first by steps of 3x3
    convolution and doubling, and added.

    The first map goes through a convolution alone, map i through i steps (section 3.1).

    Args:
        levels: how many maps, all of ``in_channels``.
        channels: of the sum.
        norm: normalisation after each convolution.
    """

    def __init__(self, levels: int, in_channels: int, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(
                    ConvNormAct(in_channels if step == 0 else channels, channels, norm=norm)
                    for step in range(max(level, 1))
                )
            )
            for level in range(levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        sizes = [x.shape[-2:] for x in maps]
        total = self.levels[0](maps[0])
        for level in range(1, len(maps)):
            x = maps[level]
            for step, size in zip(self.levels[level].children(), reversed(sizes[:level]), strict=True):
                x = resize(step(x), size)
            total = total + x
        return total

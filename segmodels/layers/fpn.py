"""Feature pyramid (Lin et al.: Feature Pyramid Networks for Object Detection, CVPR 2017, arXiv 1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segmodels.layers.blocks import resize


class FPN(nn.Module):
    """1x1 convolution of every map, coarse maps added to finer ones from the top down, 3x3 convolution of every sum; no
    non-linearity (section 3).

    Maps ``(B, in_channels[i], h_i, w_i)``, from fine to coarse, to as many maps ``(B, channels, h_i, w_i)``. Any sizes.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        for layer in (*self.laterals, *self.outputs):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sums = top_down([lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)], mode="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]


def top_down(maps: Sequence[Tensor], mode: str) -> list[Tensor]:
    """To each map, from fine to coarse and of equal channels, the sum of all coarser ones is added, enlarged by
    ``nearest`` or ``bilinear`` steps.
    """
    sums = [maps[-1]]
    for x in reversed(maps[:-1]):
        sums.append(x + resize(sums[-1], x.shape[-2:], mode))
    return sums[::-1]

"""Spatial pyramid pooling (He et al.: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition,
ECCV 2014, arXiv 1406.4729).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpatialPyramidPooling(nn.Module):
    """Maxima over the cells of grids of several sizes: a map ``(B, C, h, w)`` of any size becomes a vector ``(B, C *
    cells)``.

    With the grids of section 2.2, 4x4, 2x2 and 1x1, there are 21 cells. The vector holds grid after grid, in each
    channel after channel, then rows. Cells reach from ``floor(i h / n)`` to ``ceil((i + 1) h / n)``, so that they cover
    the map; the paper's windows, of ``ceil(h / n)`` at a stride of ``floor(h / n)``, are the same wherever n divides h,
    and leave out the far edge where n leaves a large rest.

    Args:
        sizes: cells of the grids along height and width.
    """

    def __init__(self, sizes: Sequence[int] = (4, 2, 1)) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([functional.adaptive_max_pool2d(x, size).flatten(1) for size in self.sizes], dim=1)

"""Deformable convolution (Dai 2017, 1703.06211; modulated: Zhu 2019, 1811.11168): the kernel's points are moved by
learned offsets, in each place by others.

The value at a moved point is a weighted sum of four pixels, so that all points together are one lookup of weighted sums
in the table of pixels (``embedding_bag``), and the convolution is one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from segmodels.layers.roi_align import pixels

Pair = tuple[int, int]
"""Along height and width."""


def deformable_conv(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    modulation: Tensor | None = None,
) -> Tensor:
    """``(B, O, h, w)``, as torchvision's ``deform_conv2d`` with one group and no bias. Points outside the map count as
    0, between its border and one pixel beyond values fade to 0. Coordinates are float32 in half precision, too.

    Args:
        x: ``(B, C, H, W)``.
        offsets: ``(B, 2 * K, h, w)`` in pixels of ``x``, of the K points of the kernel row by row: down, right, down,
            ... ``h`` and ``w`` are those of the plain convolution.
        weight: ``(O, C, rows, columns)``, K = rows * columns.
        modulation: ``(B, K, h, w)``, factors of the values at the points; None: 1.
    """
    table = pixels(x)
    height, width = x.shape[2:]
    rows, columns = weight.shape[2:]
    moves = offsets.to(table.dtype).unflatten(1, (rows * columns, 2)).permute(0, 3, 4, 1, 2)  # (B, h, w, K, 2)
    down = _points(offsets.shape[2], rows, stride[0], padding[0], dilation[0], x.device)[:, None, :, None]
    along = _points(offsets.shape[3], columns, stride[1], padding[1], dilation[1], x.device)[None, :, None, :]
    kernel = (rows, columns)
    line, line_weight = _corners(down.expand(-1, along.shape[1], *kernel).flatten(2) + moves[..., 0], height)
    place, place_weight = _corners(along.expand(down.shape[0], -1, *kernel).flatten(2) + moves[..., 1], width)
    line = line + height * torch.arange(x.shape[0], device=x.device).view(-1, 1, 1, 1, 1)
    index = line[..., :, None] * width + place[..., None, :]
    share = line_weight[..., :, None] * place_weight[..., None, :]  # (B, h, w, K, 2, 2)
    if modulation is not None:
        share = share * modulation.to(table.dtype).permute(0, 2, 3, 1)[..., None, None]
    values = functional.embedding_bag(
        index.flatten(4).flatten(0, 3), table, mode="sum", per_sample_weights=share.flatten(4).flatten(0, 3)
    )
    values = values.view(*moves.shape[:3], -1)  # (B, h, w, K * C)
    return functional.linear(values.to(weight.dtype), weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


def _points(length: int, size: int, stride: int, padding: int, dilation: int, device: torch.device) -> Tensor:
    """Where the points of a plain kernel lie along one axis, pixels, ``(length, size)``."""
    starts = torch.arange(length, device=device) * stride - padding
    return starts[:, None] + torch.arange(size, device=device) * dilation


def _corners(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The two pixels around each position ``(...)`` along an axis of ``length`` pixels, and their weights: ``(..., 2)``
    each. A pixel outside has the weight 0.
    """
    low = position.floor()
    share = position - low
    pair = torch.stack([low, low + 1], dim=-1).long()
    weight = torch.stack([1 - share, share], dim=-1)
    return pair.clamp(0, length - 1), weight * ((pair >= 0) & (pair < length))

"""Anchors: boxes of fixed sizes and shapes around every place of a feature map (Ren 2015, 1506.01497, section 3.1.1),
and boxes coded relative to others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from segmodels.device import constant

LARGEST = math.log(1000 / 16)
"""Largest logarithm of the factor by which a coded box is wider or higher."""


def anchors(
    shapes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    sides: Sequence[float],
    ratios: Sequence[float],
    device: torch.device,
) -> list[Tensor]:
    """Anchors of each map, ``(h * w * len(ratios), 4)`` left, top, right, bottom: row by row, place by place, in the
    order of the ratios.

    The first place is the image's corner, and the distance of two is that of torchvision: the size of the image over
    that of the map, rounded down.

    Args:
        shapes: height and width of each map.
        size: height and width of the image.
        sides: of each map, the side of a square anchor in pixels.
        ratios: height over width, at equal area.
    """
    found = []
    for (height, width), side in zip(shapes, sides, strict=True):
        root = constant(ratios, device).sqrt()
        half = torch.stack([side / root, side * root], dim=1) / 2
        own = torch.cat([-half, half], dim=1).round()
        rows = torch.arange(height, device=device) * (size[0] // height)
        columns = torch.arange(width, device=device) * (size[1] // width)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        corners = torch.stack([x, y, x, y], dim=2).view(-1, 1, 4)
        found.append((corners + own).view(-1, 4))
    return found


def centred_anchors(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    sizes: Sequence[Sequence[Sequence[float]]],
    device: torch.device,
) -> Tensor:
    """Anchors of all maps in one list ``(A, 4)``: left, top, right, bottom; map by map, row by row, place by place, in
    the order of the sizes. They lie around the places' centres.

    Args:
        shapes: height and width of each map.
        strides: of each map, pixels.
        sizes: of each map, width and height of each of its anchors in pixels.
    """
    found = []
    for (height, width), stride, own in zip(shapes, strides, sizes, strict=True):
        half = constant(own, device) / 2
        rows, columns = (stride * (torch.arange(length, device=device) + 0.5) for length in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack([x, y], dim=2).view(-1, 1, 2)
        found.append(torch.cat([centres - half, centres + half], dim=2).view(-1, 4))
    return torch.cat(found)


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes ``(N, 4)`` relative to references ``(N, 4)``: shift of the centre as a share of the reference's size, and
    logarithm of the factor of its size, times ``weights`` (Girshick 2013, 1311.2524, appendix C): ``(N, 4)``.

    References must have an area.
    """
    center, size = _centers(boxes)
    own_center, own_size = _centers(references)
    coded = torch.cat([(center - own_center) / own_size, (size / own_size).log()], dim=1)
    return coded * constant(weights, coded.device, coded.dtype)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes ``(N, ..., 4)`` of coded ones ``(N, ..., 4)``: the inverse of ``encode``."""
    center, size = _centers(references)
    middle = (1,) * (deltas.dim() - 2)
    center, size = center.view(-1, *middle, 2), size.view(-1, *middle, 2)
    values = deltas / constant(weights, deltas.device, deltas.dtype)
    half = values[..., 2:].clamp(max=LARGEST).exp() * size * 0.5
    moved = values[..., :2] * size + center
    return torch.cat([moved - half, moved + half], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``(..., 4)`` without what lies outside an image of this height and width."""
    return boxes.clamp(min=0).minimum(constant((size[1], size[0]) * 2, boxes.device, boxes.dtype))


def _centers(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, ``(N, 2)`` each."""
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * size, size

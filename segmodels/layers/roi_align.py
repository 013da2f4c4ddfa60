"""RoIAlign (He 2017, 1703.06870, section 3): values of a map at points of boxes, averaged over each cell of a box.

A cell's average is a weighted sum of pixels, so that all cells together are one lookup of weighted sums in the table of
pixels (``embedding_bag``), whatever the number of boxes and maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from segmodels.device import constant

PIXELS = 1 << 24  # of masks that are averaged at once, 64 MiB


def roi_align(
    features: Tensor,
    boxes: Tensor,
    images: Tensor,
    size: int,
    scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
) -> Tensor:
    """``(K, C, size, size)`` of features ``(B, C, H, W)`` in boxes ``(K, 4)``.

    Args:
        boxes: left, top, right, bottom in pixels of the image.
        images: ``(K,)`` int64, which image of the batch each box lies in.
        size: cells per side of a box.
        scale: of the features, pixels of theirs per pixel of the image.
        sampling_ratio: points per side of a cell; 0: as many as the cell is pixels wide, rounded up.
        aligned: pixel centres lie at half numbers, as they should; False is the older form, in which boxes lie half a
            pixel to the right and below and are at least 1 pixel wide.
    """
    levels = torch.zeros_like(images)
    return pyramid_align([features], boxes, images, levels, size, [scale], sampling_ratio, aligned)


def pyramid_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int = 0,
    aligned: bool = False,
) -> Tensor:
    """As ``roi_align``, each box on the map ``levels`` ``(K,)`` of a pyramid of maps with equal channels."""
    table = torch.cat([pixels(features) for features in pyramid])
    rows = [features.shape[0] * features.shape[2] * features.shape[3] for features in pyramid]
    facts = [(features.shape[2], features.shape[3], sum(rows[:level])) for level, features in enumerate(pyramid)]
    if not len(boxes):
        return table[:0, :, None, None].expand(-1, -1, size, size)  # so that the maps still have a gradient
    height, width, first = constant(facts, boxes.device, torch.int64)[levels].unbind(dim=1)
    scale = constant(scales, boxes.device, boxes.dtype)[levels]
    placed = boxes * scale[:, None] - (0.5 if aligned else 0.0)
    down = _axis(placed[:, 1], placed[:, 3], size, sampling_ratio, height, aligned)
    along = _axis(placed[:, 0], placed[:, 2], size, sampling_ratio, width, aligned)
    lines = (first + images * height * width)[:, None, None] + down.places * width[:, None, None]
    index = lines[:, :, None, :, None] + along.places[:, None, :, None, :]
    weight = (down.weight[:, :, None, :, None] * along.weight[:, None, :, None, :]).to(table.dtype)
    sums = _weighted_sums(table, index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2), sampling_ratio > 0)
    return sums.view(len(boxes), size, size, -1).permute(0, 3, 1, 2)


def align_masks(masks: Tensor, boxes: Tensor, owners: Tensor, size: int, inside: bool = False) -> Tensor:
    """Masks ``(G, H, W)`` in boxes ``(K, 4)`` as ``(K, size, size)`` shares of each cell, 0..1: ``roi_align`` with as
    many points as a cell has pixels.

    Args:
        owners: ``(K,)`` the mask of each box.
        inside: no box reaches beyond the masks; then a GPU is not waited for.
    """
    if not len(boxes):
        return boxes.new_zeros(0, size, size)
    boxes, most = boxes.float(), -(-max(masks.shape[1:]) // size) if inside else None
    height, width = (torch.full_like(owners, length) for length in masks.shape[1:])
    down = _axis(boxes[:, 1], boxes[:, 3], size, 0, height, False, most).dense(masks.shape[1])
    along = _axis(boxes[:, 0], boxes[:, 2], size, 0, width, False, most).dense(masks.shape[2]).mT
    together = max(1, PIXELS // masks[0].numel())
    chunks = zip(*(values.split(together) for values in (down, owners, along)), strict=True)
    return torch.cat([rows @ masks[owner].float() @ columns for rows, owner, columns in chunks])


class _Taps(NamedTuple):
    """Pixels along one axis that the average of each cell reads, T of them."""

    places: Tensor  # (K, size, T) int64
    weight: Tensor  # (K, size, T), 0 where fewer are read

    def dense(self, length: int) -> Tensor:
        """Weights of all pixels, ``(K, size, length)``."""
        weights = self.weight.new_zeros(*self.weight.shape[:2], length)
        return weights.scatter_add_(2, self.places, self.weight)


def _axis(
    start: Tensor,
    stop: Tensor,
    size: int,
    sampling_ratio: int,
    length: Tensor,
    aligned: bool,
    most: int | None = None,
) -> _Taps:
    """Two pixels for each of a cell's points: those that linear interpolation reads.

    Args:
        start, stop: ``(K,)``, in pixels of the map.
        length: ``(K,)`` pixels of the map. Points more than a pixel outside count as 0.
        most: not less than the number of points of any box, without a ``sampling_ratio``; None: found here.
    """
    extent = stop - start if aligned else (stop - start).clamp(min=1)
    step = extent / size
    if sampling_ratio > 0:
        points, most = torch.full_like(step, sampling_ratio), sampling_ratio
    else:
        points = step.ceil().clamp(min=0)
        most = max(int(points.max()), 1) if most is None else most
    number = torch.arange(most, device=start.device)
    cell = torch.arange(size, device=start.device)[:, None]
    start, step, points, end = (values[:, None, None] for values in (start, step, points, length.to(start)))
    position = start + cell * step + (number + 0.5) * step / points.clamp(min=1)
    counts = (number < points) & (position >= -1) & (position <= end)
    position = position.clamp(min=0).minimum(end - 1)
    low = position.floor()
    share = position - low
    weight = counts / points.clamp(min=1)
    index = torch.stack([low, (low + 1).minimum(end - 1)], dim=3).flatten(2).long()
    return _Taps(index, torch.stack([(1 - share) * weight, share * weight], dim=3).flatten(2))


def _weighted_sums(table: Tensor, index: Tensor, weight: Tensor, dense: bool) -> Tensor:
    """Σ weight · row of the table ``(P, C)`` for each line of ``index`` ``(N, T)``: ``(N, C)``.

    Args:
        dense: most weights are not 0.
    """
    if dense:
        return functional.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    used = weight != 0
    offsets = used.sum(dim=1).cumsum(dim=0)
    offsets = torch.cat([offsets.new_zeros(1), offsets[:-1]])
    return functional.embedding_bag(index[used], table, offsets, mode="sum", per_sample_weights=weight[used])


def pixels(features: Tensor) -> Tensor:
    """``(B * H * W, C)``, at least in float32."""
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
    return pixels.float() if pixels.dtype in (torch.float16, torch.bfloat16) else pixels

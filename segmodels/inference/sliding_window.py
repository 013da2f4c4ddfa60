"""Images too large to predict at once: overlapping windows, whose predictions are averaged.

The average is formed from the top down. Rows of the image are asked for when a window needs them, rows of probabilities
are handed over as soon as no further window touches them, so that of the image and of the probabilities only a strip of
the window's height is ever held (C x window height x image width floats), whatever the image's height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segmodels.errors import InputError

FLOATS_AT_ONCE = 2**22  # of averaged probabilities handed over at a time, 16 MB


@dataclass(frozen=True)
class SlidingWindow:
    """How an image is cut into windows.

    Attributes:
        size: (height, width) of a window in pixels; the model sees exactly this size, smaller images are extended by
            their border pixels.
        overlap: least share of a window that it has in common with the next, 0 <= overlap < 1.
        weighting: of a window's pixels in the average: ``gaussian`` (sigma an eighth of the window, as nnU-Net, Isensee
            2021) trusts the centre more, where the model sees more context; ``uniform`` trusts all alike.
        batch_size: windows predicted at once.
    """

    size: tuple[int, int]
    overlap: float = 0.5
    weighting: str = "gaussian"
    batch_size: int = 4

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"size of the sliding window is {list(self.size)}, expected a positive height and width")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap of the sliding window is {self.overlap:g}, expected 0 <= overlap < 1")
        if self.weighting not in ("gaussian", "uniform"):
            raise InputError(f"weighting of the sliding window is {self.weighting!r}, expected 'gaussian' or 'uniform'")


def predict_bands(
    predict: Callable[[Tensor], Tensor],
    read: Callable[[int, int], Tensor],
    size: tuple[int, int],
    window: SlidingWindow,
) -> Iterator[Tensor]:
    """Probabilities of an image as bands (C, rows, W) from the top down; all bands together have its H rows.

    Args:
        predict: turns windows (B, 3, *window.size) into probabilities (B, C, *window.size).
        read: rows from one to another (less one) of the image, (3, rows, W); each row is asked for once, from the top
            down.
        size: (H, W) of the image.
    """
    height, width = size
    tops, lefts = (
        window_starts(length, extent, window.overlap) for length, extent in zip(size, window.size, strict=True)
    )
    strip = read(0, min(window.size[0], height))
    weight = _weights(window, strip.device)
    band, band_weight = None, torch.zeros(window.size[0], width, device=strip.device)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left, probabilities in _predict_row(predict, strip, window, lefts):
            if band is None:
                band = probabilities.new_zeros(len(probabilities), window.size[0], width)
            columns = min(window.size[1], width - left)
            band[:, :, left : left + columns] += (probabilities * weight)[:, :, :columns]
            band_weight[:, left : left + columns] += weight[:, :columns]
        assert band is not None
        done = following - top
        rows_at_once = max(FLOATS_AT_ONCE // (len(band) * width), 1)
        for first in range(0, done, rows_at_once):
            last = min(first + rows_at_once, done)
            yield band[:, first:last] / band_weight[first:last]
        if following < height:
            for rows in (
                *band,
                band_weight,
            ):  # what later windows add to moves to the top, one class at a time: a copy of all may not fit
                rows[: len(rows) - done] = rows[done:].clone()
                rows[len(rows) - done :] = 0
            strip = torch.cat([strip[:, done:], read(top + strip.shape[1], following + strip.shape[1])], dim=1)


def window_starts(length: int, size: int, overlap: float) -> list[int]:
    """First pixels of the fewest windows of ``size`` that cover ``length`` with at least ``overlap``, evenly spread;
    [0] if one covers all.
    """
    if length <= size:
        return [0]
    step = max(int(size * (1 - overlap)), 1)
    count = -(-(length - size) // step) + 1
    return [round(index * (length - size) / (count - 1)) for index in range(count)]


def _predict_row(
    predict: Callable[[Tensor], Tensor], strip: Tensor, window: SlidingWindow, lefts: list[int]
) -> Iterator[tuple[int, Tensor]]:
    """(left, probabilities (C, *window.size)) of the windows that a strip of the image is cut into, from left
    to right.
    """
    rows = _indices(0, window.size[0], strip.shape[-2], strip.device)
    for first in range(0, len(lefts), window.batch_size):
        batch = lefts[first : first + window.batch_size]
        columns = [_indices(left, window.size[1], strip.shape[-1], strip.device) for left in batch]
        yield from zip(
            batch, predict(torch.stack([strip[:, rows[:, None], column] for column in columns])), strict=True
        )


def _indices(first: int, size: int, length: int, device: torch.device) -> Tensor:
    """Pixels ``first`` .. ``first + size - 1``; beyond the image its last pixel again."""
    return torch.arange(first, first + size, device=device).clamp(max=length - 1)


def _weights(window: SlidingWindow, device: torch.device) -> Tensor:
    """(height, width) weights > 0, largest 1."""
    if window.weighting == "uniform":
        return torch.ones(window.size, device=device)
    axes = []
    for size in window.size:
        distance = torch.arange(size, device=device) - (size - 1) / 2
        axes.append(torch.exp(-0.5 * (distance / (size / 8)) ** 2))
    weight = axes[0][:, None] * axes[1]
    return (weight / weight.max()).clamp(
        min=1e-3
    )  # corners that no other window covers must not be divided by almost nothing

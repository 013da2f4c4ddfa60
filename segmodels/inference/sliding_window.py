"""Images too large to predict at once: overlapping windows, whose predictions are averaged.

The average is formed in bands of rows from the top down. A row is handed over as soon as no further window touches it, so that
of the probabilities only one band (C x window height x image width) is ever held, whatever the image's height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segmodels.errors import InputError


@dataclass(frozen=True)
class SlidingWindow:
    """How an image is cut into windows.

    Attributes:
        size: (height, width) of a window in pixels; the model sees exactly this size, smaller images are extended by their border pixels.
        overlap: least share of a window that it has in common with the next, 0 <= overlap < 1.
        weighting: of a window's pixels in the average: ``gaussian`` (sigma an eighth of the window, as nnU-Net, Isensee 2021) trusts
            the centre more, where the model sees more context; ``uniform`` trusts all alike.
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


def predict_bands(predict: Callable[[Tensor], Tensor], image: Tensor, window: SlidingWindow) -> Iterator[Tensor]:
    """Probabilities of ``image`` (3, H, W) as bands (C, rows, W) from the top down; all bands together have H rows.

    ``predict`` turns windows (B, 3, *window.size) into probabilities (B, C, *window.size).
    """
    height, width = image.shape[-2:]
    tops, lefts = (window_starts(length, size, window.overlap) for length, size in zip((height, width), window.size, strict=True))
    weight = _weights(window, image.device)
    band, band_weight = None, torch.zeros(window.size[0], width, device=image.device)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left, probabilities in _predict_row(predict, image, window, top, lefts):
            if band is None:
                band = probabilities.new_zeros(len(probabilities), window.size[0], width)
            columns = min(window.size[1], width - left)
            band[:, :, left : left + columns] += (probabilities * weight)[:, :, :columns]
            band_weight[:, left : left + columns] += weight[:, :columns]
        assert band is not None
        done = following - top
        yield band[:, :done] / band_weight[:done]
        for rows in (band, band_weight):  # what later windows add to moves to the top
            remaining = rows[..., done:, :].clone()
            rows.zero_()
            rows[..., : remaining.shape[-2], :] = remaining


def window_starts(length: int, size: int, overlap: float) -> list[int]:
    """First pixels of the fewest windows of ``size`` that cover ``length`` with at least ``overlap``, evenly spread; [0] if one covers all."""
    if length <= size:
        return [0]
    step = max(int(size * (1 - overlap)), 1)
    count = -(-(length - size) // step) + 1
    return [round(index * (length - size) / (count - 1)) for index in range(count)]


def _predict_row(predict: Callable[[Tensor], Tensor], image: Tensor, window: SlidingWindow, top: int, lefts: list[int]) -> Iterator[tuple[int, Tensor]]:
    """(left, probabilities (C, *window.size)) of the windows whose first row is ``top``, from left to right."""
    rows = _indices(top, window.size[0], image.shape[-2], image.device)
    for first in range(0, len(lefts), window.batch_size):
        batch = lefts[first : first + window.batch_size]
        columns = [_indices(left, window.size[1], image.shape[-1], image.device) for left in batch]
        yield from zip(batch, predict(torch.stack([image[:, rows[:, None], column] for column in columns])), strict=True)


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
    return (weight / weight.max()).clamp(min=1e-3)  # corners that no other window covers must not be divided by almost nothing

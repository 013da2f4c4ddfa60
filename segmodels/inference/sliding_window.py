"""Images and volumes too large to predict at once: overlapping windows, whose predictions are averaged.

The average is formed along the first axis, of an image from the top down. Rows of the image (slices of a volume) are
asked for when a window needs them, rows of probabilities are handed over as soon as no further window touches them, so
that of the image and of the probabilities only a strip of the window's height is ever held (C x window height x image
width floats), whatever the image's height.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from segmodels.data import large_images
from segmodels.errors import InputError
from segmodels.windows import SlidingWindow

FLOATS_AT_ONCE = 2**22  # of averaged probabilities handed over at a time, 16 MB

Predicted = TypeVar("Predicted")


def predict_bands(
    predict: Callable[[Tensor], Tensor],
    read: Callable[[int, int], Tensor],
    size: Sequence[int],
    window: SlidingWindow,
) -> Iterator[Tensor]:
    """Probabilities of an image as bands (C, rows, W) from the top down; all bands together have its H rows. Of a
    volume, as bands (C, slices, H, W).

    Args:
        predict: turns windows (B, channels, *window.size) into probabilities (B, C, *window.size).
        read: rows ``start`` .. ``stop - 1`` of the image, (channels, rows, W), or slices of the volume (channels,
            slices, H, W); each is asked for once, in order.
        size: (H, W) of the image, (D, H, W) of the volume.

    Raises:
        InputError: the window has another number of axes than the image.
    """
    height, rest = window.size[0], tuple(size[1:])
    weight, band, band_weight = torch.empty(0), None, torch.empty(0)
    for top, following, row in window_rows(predict, read, size, window):
        for place, probabilities in row:
            if band is None:
                weight = _weights(window, probabilities.device)
                band_weight = torch.zeros(height, *rest, device=probabilities.device)
                band = probabilities.new_zeros(len(probabilities), height, *rest)
            inside = [min(extent, end - first) for extent, end, first in zip(window.size[1:], rest, place, strict=True)]
            target = tuple(slice(first, first + extent) for first, extent in zip(place, inside, strict=True))
            seen = tuple(slice(extent) for extent in inside)
            band[:, :, *target] += (probabilities * weight)[:, :, *seen]
            band_weight[:, *target] += weight[:, *seen]
        assert band is not None
        done = following - top
        rows_at_once = max(FLOATS_AT_ONCE // (len(band) * math.prod(rest)), 1)
        for first in range(0, done, rows_at_once):
            last = min(first + rows_at_once, done)
            yield band[:, first:last] / band_weight[first:last]
        if following < size[0]:
            for rows in (
                *band,
                band_weight,
            ):  # what later windows add to moves to the top, one class at a time: a copy of all may not fit
                rows[: len(rows) - done] = rows[done:].clone()
                rows[len(rows) - done :] = 0


def window_rows(
    predict: Callable[[Tensor], Iterable[Predicted]],
    read: Callable[[int, int], Tensor],
    size: Sequence[int],
    window: SlidingWindow,
) -> Iterator[tuple[int, int, Iterator[tuple[tuple[int, ...], Predicted]]]]:
    """The rows of windows that an image is cut into, from the top down: the first pixel of the row, that of the next
    row (the image's length after the last), and of each window its first pixels on the other axes and its prediction.

    Of the image only a strip of the window's height is held.

    Args:
        predict: turns windows (B, channels, *window.size) into B predictions.
        read, size: as of ``predict_bands``.

    Raises:
        InputError: the window has another number of axes than the image.
    """
    window.check_axes(len(size))
    tops, *others = (window_starts(*axis, window.overlap) for axis in zip(size, window.size, strict=True))
    places = list(itertools.product(*others))
    strip = read(0, min(window.size[0], size[0]))
    for top, following in zip(tops, [*tops[1:], size[0]], strict=True):
        yield top, following, _predict_row(predict, strip, window, places)
        if following < size[0]:
            rows = read(top + strip.shape[1], following + strip.shape[1])
            strip = torch.cat([strip[:, following - top :], rows], dim=1)


def image_rows(image: Tensor, start: int, stop: int) -> Tensor:
    """What ``predict_bands`` reads, of an image (channels, *spatial) in memory."""
    return image[:, start:stop]


def require_whole(seen: tuple[int, int], size: tuple[int, int]) -> None:
    """Check that an image can be predicted whole.

    Args:
        seen: (height, width) at which the model sees the image.
        size: (height, width) of the image.

    Raises:
        InputError: more than ``large_images.LARGE`` pixels for the model to see.
    """
    if seen[0] * seen[1] > large_images.LARGE:
        raise InputError(
            f"image has {size[0]} x {size[1]} pixels, expected at most {large_images.LARGE / 1e6:.1f} million without a"
            " sliding window: give one, as --window 512"
        )


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
    predict: Callable[[Tensor], Iterable[Predicted]],
    strip: Tensor,
    window: SlidingWindow,
    places: Sequence[tuple[int, ...]],
) -> Iterator[tuple[tuple[int, ...], Predicted]]:
    """First pixels on the axes after the first, and prediction, of the windows that a strip is cut into, in order."""
    for first in range(0, len(places), window.batch_size):
        batch = places[first : first + window.batch_size]
        yield from zip(batch, predict(torch.stack([_cut(strip, (0, *place), window) for place in batch])), strict=True)


def _cut(strip: Tensor, corner: Sequence[int], window: SlidingWindow) -> Tensor:
    """The window at ``corner``; beyond the image its last pixels again."""
    part = strip[:, *[slice(first, first + extent) for first, extent in zip(corner, window.size, strict=True)]]
    for axis, extent in enumerate(window.size, start=1):
        if part.shape[axis] < extent:
            inside = torch.arange(extent, device=strip.device).clamp(max=part.shape[axis] - 1)
            part = part.index_select(axis, inside)
    return part


def _weights(window: SlidingWindow, device: torch.device) -> Tensor:
    """Weights ``(*window.size)`` > 0, largest 1."""
    if window.weighting == "uniform":
        return torch.ones(window.size, device=device)
    axes = []
    for size in window.size:
        distance = torch.arange(size, device=device) - (size - 1) / 2
        axes.append(torch.exp(-0.5 * (distance / (size / 8)) ** 2))
    weight = axes[0]
    for axis in axes[1:]:
        weight = weight[..., None] * axis
    return (weight / weight.max()).clamp(
        min=1e-3
    )  # corners that no other window covers must not be divided by almost nothing

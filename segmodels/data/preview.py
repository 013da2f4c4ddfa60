"""Previews of images that a screen cannot show: other channels, other types, volumes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DARKEST, BRIGHTEST = 1, 99
"""Percentiles of the values that become black and white."""


def as_rgb(image: NDArray) -> NDArray[np.uint8]:
    """An image ``(*spatial, C)`` of any type as RGB uint8 ``(*spatial, 3)``.

    8-bit RGB stays as it is. Of other images the first three channels, or of one or two the first alone in grey, are
    stretched from their 1st to their 99th percentile; 8-bit channels are not.
    """
    channels = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    if image.dtype != np.uint8:
        low, high = np.percentile(channels, (DARKEST, BRIGHTEST), axis=tuple(range(image.ndim - 1)))
        span = np.where(high > low, high - low, 1)
        channels = np.nan_to_num((channels - low) / span * 255).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(channels, (*image.shape[:-1], 3)))


def shown_slice(classes: NDArray, ignore_index: int = 255) -> int:
    """The slice of a class map ``(D, H, W)`` with the most classes beside background (train id 0), of equals the one
    with the most of their voxels; the middle one where there are none.
    """
    shown = (classes != 0) & (classes != ignore_index)
    if not shown.any():
        return len(classes) // 2
    return max(
        range(len(classes)), key=lambda index: (len(np.unique(classes[index][shown[index]])), shown[index].sum())
    )


def flat(image: NDArray, truth: NDArray, *others: NDArray, ignore_index: int = 255) -> tuple[NDArray, ...]:
    """An image of any kind and maps of it as a page shows them: RGB uint8 ``(H, W, 3)`` and maps ``(H, W)``.

    Args:
        image: ``(*spatial, C)``, of any size.
        truth, others: maps ``(*spatial)`` of one size; of a volume, ``shown_slice`` of the first is shown.
    """
    if truth.ndim == 2:
        return as_rgb(image), truth, *others
    index = shown_slice(truth, ignore_index)
    of_image = min(int((index + 0.5) * len(image) / len(truth)), len(image) - 1)
    return as_rgb(image[of_image]), truth[index], *(other[index] for other in others)

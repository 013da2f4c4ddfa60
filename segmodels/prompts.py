"""Clicks on objects: where they are placed, and how promptable models are given them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from torch import Tensor


class Prompts(NamedTuple):
    """Clicks on the N objects of each image of a batch, P on each; one tensor per image."""

    points: tuple[Tensor, ...]  # (N, P, 2) float32, x and y in pixels of the model's input
    labels: tuple[Tensor, ...]  # (N, P) int64, 1 on the object, 0 beside it


class Click(NamedTuple):
    """In pixels of a mask; the centre of the first pixel is (0.5, 0.5)."""

    x: float
    y: float
    label: int  # 1 on the object, 0 beside it


def first_click(mask: NDArray[np.bool_]) -> Click:
    """On the pixel of a mask ``(H, W)`` that lies farthest from all others, as users click (SAM, Kirillov 2023,
    2304.02643, section 7.1).
    """
    return Click(*_innermost(mask), 1)


def next_click(mask: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Click | None:
    """In the larger of what is missing and what is too much (Sofiiuk 2021, 2102.06583); None where nothing is wrong."""
    missing, surplus = mask & ~predicted, predicted & ~mask
    if not (missing.any() or surplus.any()):
        return None
    label = int(missing.sum() >= surplus.sum())
    return Click(*_innermost(missing if label else surplus), label)


def _innermost(region: NDArray[np.bool_]) -> tuple[float, float]:
    distance = scipy.ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), region.shape)
    return float(column) + 0.5, float(row) + 0.5

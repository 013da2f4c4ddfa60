"""Clicks on objects: where to place them, and the tensors that promptable models take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor


class Prompts(NamedTuple):
    """Clicks on the N objects of each image of a batch, P on each; one tensor per image."""

    points: tuple[Tensor, ...]  # (N, P, 2) float32, x and y in pixels of the model's input
    labels: tuple[Tensor, ...]  # (N, P) int64, 1 on the object, 0 beside it


class Click(NamedTuple):
    """A point in pixels of a mask; the centre of the first pixel is (0.5, 0.5)."""

    x: float
    y: float
    label: int  # 1 on the object, 0 beside it


def first_click(mask: NDArray[np.bool_]) -> Click:
    """A click on the pixel of a mask ``(H, W)`` that is farthest from its border, as users click (SAM, Kirillov 2023,
    2304.02643, section 7.1).
    """
    return Click(*_innermost(mask), 1)


def random_click(mask: NDArray[np.bool_], rng: np.random.Generator) -> Click:
    """A click on a random pixel of a mask ``(H, W)``, as models are trained (SAM, appendix A)."""
    row, column = np.unravel_index(int(rng.choice(np.flatnonzero(mask))), mask.shape)
    return Click(float(column) + 0.5, float(row) + 0.5, 1)


def next_click(mask: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Click | None:
    """A click in the larger of the missing and the surplus region (Sofiiuk 2021, 2102.06583); None if the prediction
    is right.
    """
    missing, surplus = mask & ~predicted, predicted & ~mask
    if not (missing.any() or surplus.any()):
        return None
    label = int(missing.sum() >= surplus.sum())
    return Click(*_innermost(missing if label else surplus), label)


def add_clicks(clicks: Sequence[list[Click]], masks: NDArray[np.bool_], predicted: Iterable[NDArray[np.bool_]]) -> None:
    """Add a click to each of N objects of an image, where its predicted mask is wrong (``next_click``); if it is right,
    the last click is repeated.

    Args:
        clicks: on each object, at least one; extended in place.
        masks: the objects, ``(N, H, W)``.
        predicted: its N masks so far, ``(H, W)`` each.
    """
    for row, mask, found in zip(clicks, masks, predicted, strict=True):
        row.append(next_click(mask, found) or row[-1])


def prompts_of(
    clicks: Sequence[Sequence[Sequence[Click]]], sizes: Sequence[tuple[int, ...]], images: Tensor
) -> Prompts:
    """The clicks as tensors for a model, on the device of its images.

    Args:
        clicks: on every object of every image, the same number on each.
        sizes: ``(H, W)`` of the masks in whose pixels each image's clicks are.
        images: ``(B, C, H, W)``, the model's input.
    """
    height, width = images.shape[2:]
    count = max((len(row) for rows in clicks for row in rows), default=1)
    points, labels = [], []
    for rows, size in zip(clicks, sizes, strict=True):
        placed = [[(c.x * width / size[1], c.y * height / size[0]) for c in row] for row in rows]
        points.append(images.new_tensor(placed, dtype=torch.float32).reshape(len(rows), count, 2))
        own = [[click.label for click in row] for row in rows]
        labels.append(images.new_tensor(own, dtype=torch.int64).reshape(len(rows), count))
    return Prompts(tuple(points), tuple(labels))


def _innermost(region: NDArray[np.bool_]) -> tuple[float, float]:
    """x and y of the pixel farthest from the region's border; the search is within the box around the region."""
    boxes = scipy.ndimage.find_objects(region.astype(np.uint8))
    rows, columns = boxes[0] if boxes else (slice(0, None), slice(0, None))
    distance = scipy.ndimage.distance_transform_edt(np.pad(region[rows, columns], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(columns.start + column) + 0.5, float(rows.start + row) + 0.5

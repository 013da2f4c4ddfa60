"""Exact Euclidean distances to regions of a label map, outside autograd; unit: pixels.

OpenCV's precise transform in the plane, SciPy's in space. Work is shared by as many threads as torch may use.
Distances to a region that is empty are 0: a boundary that is not there penalises nothing. Ignored pixels belong to no
region: no distance is measured to them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import scipy.ndimage
import torch
from torch import Tensor


def distance_to(region: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest one of ``region`` (bool, 2-D or 3-D) as float32; 0 everywhere if it is empty."""
    if not region.any():
        return np.zeros(region.shape, np.float32)
    if region.ndim == 2:
        return cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return scipy.ndimage.distance_transform_edt(~region).astype(np.float32)


def distance_to_classes(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Distance of every pixel to the nearest pixel of each class in its image.

    Args:
        labels: int64 ``(B, *spatial)``; valid: bool, same shape.

    Returns:
        float32 ``(B, C, *spatial)``: 0 inside the class, and everywhere for a class that its image lacks.
    """
    regions = labels.numpy(force=True), valid.numpy(force=True)
    distances = np.empty((len(labels), num_classes, *labels.shape[1:]), np.float32)

    def fill(cell: int) -> None:
        image, name = divmod(cell, num_classes)
        distances[image, name] = distance_to((regions[0][image] == name) & regions[1][image])

    _in_threads(fill, len(labels) * num_classes)
    return torch.from_numpy(distances).to(labels.device)


def distance_to_other_labels(labels: Tensor, valid: Tensor) -> Tensor:
    """Distance of every pixel to the nearest valid pixel of its image with another label.

    Two labels differ where a bit of theirs differs, so the distance is the least of those to the pixels with an opposite
    bit: 2 log2(C) transforms instead of C.

    Args:
        labels: int64 ``(B, *spatial)``, at least 0; valid: bool, same shape.

    Returns:
        float32 ``(B, *spatial)``; 0 in an image with one label only. Values at ignored pixels have no meaning.
    """
    maps, known = labels.numpy(force=True), valid.numpy(force=True)
    distances = np.full(maps.shape, np.inf, np.float32)

    def fill(image: int) -> None:
        nearest = distances[image]
        for bit in range(int(maps[image].max()).bit_length()):
            side = (maps[image] >> bit & 1).astype(bool)
            for here, opposite in ((side, ~side & known[image]), (~side, side & known[image])):
                if opposite.any():
                    np.minimum(nearest, distance_to(opposite), out=nearest, where=here)
        nearest[np.isinf(nearest)] = 0

    _in_threads(fill, len(maps))
    return torch.from_numpy(distances).to(labels.device)


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Call ``work`` with 0..count-1 on torch's number of threads; OpenCV, SciPy and NumPy run outside Python's lock."""
    with ThreadPoolExecutor(min(torch.get_num_threads(), count)) as pool:
        list(pool.map(work, range(count)))

"""Exact Euclidean distances to the regions of a label map, outside autograd; unit: pixels.

OpenCV's precise transform in the plane, SciPy's in space. Work is shared by as many threads as torch may use.
Distances to a region that is empty are 0: a contour that is not there penalises nothing. Ignored pixels belong to no
region: no distance is measured to them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor


def distance_to(region: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest one of ``region`` (bool, 2-D or 3-D) as float32; 0 everywhere if it is
    empty.
    """
    if not region.any():
        return np.zeros(region.shape, np.float32)
    if region.ndim == 2:
        return cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    import scipy.ndimage

    return scipy.ndimage.distance_transform_edt(~region).astype(np.float32)


def class_distances(labels: Tensor, valid: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Distances of every pixel to the classes of its image.

    Args:
        labels: int64 ``(B, *spatial)``, 0..C-1; valid: bool, same shape.

    Returns:
        outside: float32 ``(B, C, *spatial)``, to the nearest pixel of each class: 0 inside it, and everywhere for a
            class that the image lacks.
        inside: float32 ``(B, *spatial)``, to the nearest pixel of another class; 0 if there is none, and where ignored.
    """
    names, known = labels.numpy(force=True), valid.numpy(force=True)
    outside = np.empty((len(labels), num_classes, *labels.shape[1:]), np.float32)
    inside = np.full(labels.shape, np.inf, np.float32)

    def measure(cell: int) -> None:
        image, c = divmod(cell, num_classes)
        outside[image, c] = distance_to((names[image] == c) & known[image])

    def nearest_other(image: int) -> None:
        for c in np.unique(names[image][known[image]]):
            np.minimum(
                inside[image], np.where(names[image] == c, np.float32(np.inf), outside[image, c]), out=inside[image]
            )
        inside[image][np.isinf(inside[image]) | ~known[image]] = 0

    _in_threads(measure, outside.shape[0] * num_classes)
    _in_threads(nearest_other, len(labels))
    return torch.from_numpy(outside).to(labels.device), torch.from_numpy(inside).to(labels.device)


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Call ``work`` with 0..count-1 on torch's number of threads; OpenCV, SciPy and NumPy run outside Python's lock."""
    with ThreadPoolExecutor(min(torch.get_num_threads(), count)) as pool:
        list(pool.map(work, range(count)))

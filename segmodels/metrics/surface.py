"""Distances between the surfaces of a predicted and a true region, in millimetres, and Dice of single cases.

A surface is the set of a region's pixels with a neighbour outside of it (4 neighbours in images, 6 in volumes); pixels
at the border of the image belong to it. Distances are exact Euclidean ones between pixel centres.

A region that is neither predicted nor there has no score (NaN, left out of means). Where only one of both is empty, the
distance is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmodels.errors import InputError

__all__ = ["case_scores", "dice_of_case", "hausdorff_95", "mean_surface_distance", "surface_distances"]


def hausdorff_95(prediction: ArrayLike, truth: ArrayLike, spacing: Sequence[float] | None = None) -> float:
    """HD95: the larger of the 95th percentiles of both directions' surface distances (Huttenlocher 1993; the percentile
    as in the BraTS and Decathlon challenges).

    Args:
        prediction, truth: regions, bool ``(*spatial)``.
        spacing: millimetres between pixels along each axis; None: 1.
    """
    return _hausdorff_95(*surface_distances(prediction, truth, spacing))


def mean_surface_distance(prediction: ArrayLike, truth: ArrayLike, spacing: Sequence[float] | None = None) -> float:
    """Mean distance from every surface pixel of either region to the other's surface (average symmetric surface
    distance, Heimann 2009).

    Arguments are those of ``hausdorff_95``.
    """
    return _mean(*surface_distances(prediction, truth, spacing))


def surface_distances(
    prediction: ArrayLike, truth: ArrayLike, spacing: Sequence[float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from every surface pixel of the prediction to the surface of the truth, and from every one of the
    truth to that of the prediction; empty for an empty region, infinite to one.

    Raises:
        InputError: regions of different sizes, or a spacing for another number of axes or not above 0.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape:
        raise InputError(
            f"prediction has the size {list(prediction.shape)}, the truth {list(truth.shape)}, expected the same size"
        )
    millimetres = np.ones(truth.ndim) if spacing is None else np.asarray(spacing, np.float64)
    if millimetres.shape != (truth.ndim,) or not (millimetres > 0).all():
        raise InputError(f"spacing is {spacing} for {truth.ndim} axes, expected a length above 0 for each")
    ours, theirs = (_surface(region) * millimetres for region in (prediction, truth))
    return _nearest(ours, theirs), _nearest(theirs, ours)


def dice_of_case(prediction: ArrayLike, truth: ArrayLike) -> float:
    """2 |P ∩ T| / (|P| + |T|) (Dice 1945) of two regions, bool ``(*spatial)``; NaN where both are empty."""
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    pixels = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / pixels if pixels else float("nan")


def case_scores(
    prediction: NDArray, truth: NDArray, num_classes: int, ignore_index: int, spacing: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Scores of one case: for each class but the background (train id 0) ``dice``, ``hausdorff_95`` and
    ``mean_surface_distance`` in millimetres.

    Args:
        prediction, truth: train ids ``(*spatial)``; where the truth is ``ignore_index``, both count as background.
        spacing: millimetres between pixels along each axis; None: 1.
    """
    counted = truth != ignore_index
    rows = []
    for label in range(1, num_classes):
        ours, theirs = (prediction == label) & counted, truth == label
        distances = surface_distances(ours, theirs, spacing)
        rows.append(
            {
                "label": label,
                "dice": dice_of_case(ours, theirs),
                "hausdorff_95": _hausdorff_95(*distances),
                "mean_surface_distance": _mean(*distances),
            }
        )
    return rows


def _hausdorff_95(there: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    if not len(there) or not len(back):
        return float("inf") if len(there) or len(back) else float("nan")
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _mean(there: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    both = np.concatenate([there, back])
    return float(both.mean()) if len(both) else float("nan")


def _surface(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Places ``(N, axes)`` of the surface's pixels, in pixels."""
    from scipy import ndimage

    (box,) = ndimage.find_objects(region.astype(np.uint8)) or [None]
    if box is None:
        return np.zeros((0, region.ndim))
    part = region[box]  # the rest is background, which changes neither erosion nor surface
    edges = np.argwhere(part & ~ndimage.binary_erosion(part)).astype(np.float64)
    return edges + [axis.start for axis in box]


def _nearest(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(theirs):
        return np.full(len(ours), np.inf)
    from scipy.spatial import KDTree

    return KDTree(theirs).query(ours)[0]

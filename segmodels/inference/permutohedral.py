"""Gaussian filtering of scattered points on the permutohedral lattice (Adams, Baek and Davis, Eurographics 2010).

Values are spread from each point to the corners of the lattice simplex around it, blurred along the lattice's axes, and
collected
again: linear in the number of points, whatever the width of the Gaussian. All three are sparse matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from segmodels.errors import InputError


class PermutohedralLattice:
    """The filter sum_j exp(-|f_i - f_j|^2 / 2) v_j, up to a constant factor, of points with ``features`` (N, d).

    The blurs along the axes commute on the whole lattice, but not on the part near points that is kept. They are
    applied in both orders and averaged, so that the filter is a symmetric matrix as the Gaussian is, and about twice as
    close to it.

    Raises:
        InputError: the features span so many lattice cells that a 64-bit number cannot count them.
    """

    def __init__(self, features: NDArray[np.floating]) -> None:
        origin, rank, weights = _enclosing_simplices(_on_hyperplane(features))
        codes, steps = _codes(origin, rank)
        cells, index = np.unique(codes, return_inverse=True)
        count, (points, vertices) = len(cells), codes.shape
        starts = np.arange(0, points * vertices + 1, vertices)
        self._slice = sparse.csr_array(
            (weights.astype(np.float32).ravel(), index.ravel(), starts), shape=(points, count)
        )
        self._splat = self._slice.T.tocsr()
        self._blurs = [_blur(cells, step) for step in steps]

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter values (N, C), each column on its own."""
        forward = backward = self._splat @ values
        for blur in self._blurs:
            forward = blur @ forward
        for blur in reversed(self._blurs):
            backward = blur @ backward
        return self._slice @ ((forward + backward) / 2)


def _on_hyperplane(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Features (N, d) as points (N, d + 1) whose coordinates sum to 0, scaled so that the whole filter has standard
    deviation 1 (section 3.1).
    """
    dimension = features.shape[1]
    axis = np.arange(1, dimension + 1)
    scaled = features * ((dimension + 1) * np.sqrt(2 / 3) / np.sqrt(axis * (axis + 1)))
    elevated = np.zeros((len(features), dimension + 1))
    elevated[:, :-1] = np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1]
    elevated[:, 1:] -= axis * scaled
    return elevated


def _enclosing_simplices(
    elevated: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The simplex around each point (section 3.2): its corner of remainder 0, the rank of the coordinates of the
    point's offset from there (0 is the largest), and the point's barycentric coordinates; each (N, d + 1)."""
    size = elevated.shape[1]
    nearest = np.rint(elevated / size).astype(np.int64)
    descending = np.argsort(nearest * size - elevated, axis=1, kind="stable")
    rank = np.empty_like(descending)
    np.put_along_axis(rank, descending, np.broadcast_to(np.arange(size), rank.shape), axis=1)
    rank += nearest.sum(
        axis=1, keepdims=True
    )  # steps off the hyperplane: the coordinates that were rounded the furthest are rounded the other way
    back = (rank < 0).astype(np.int64) - (rank >= size)
    rank += size * back
    origin = (nearest + back) * size
    offset = np.empty_like(elevated)
    np.put_along_axis(offset, rank, (elevated - origin) / size, axis=1)
    weights = np.empty_like(elevated)
    weights[:, 0] = 1 + offset[:, -1] - offset[:, 0]
    weights[:, 1:] = (offset[:, :-1] - offset[:, 1:])[:, ::-1]
    return origin, rank, weights


def _codes(origin: NDArray[np.int64], rank: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """A number for each corner of the simplices, (N, d + 1), and by how much it grows to the next lattice point along
    each of the d + 1 axes.

    The number counts the first d coordinates, the last follows from them. Along an axis its own coordinate falls by d
    and all others grow by 1.
    """
    size = origin.shape[1]
    origin, rank = origin[:, :-1], rank[:, :-1]
    first = (
        origin.min(axis=0) - 2 * size
    )  # a margin, so that the neighbour of a corner at the border is no other corner
    spans = [int(span) for span in origin.max(axis=0) + 2 * size + 1 - first]
    strides = [int(np.prod(spans[:axis], dtype=object)) for axis in range(size)]
    if strides.pop() >= 2**63:
        raise InputError(
            "the features of the dense CRF span too many lattice cells, expected standard deviations of about 1 grey"
            " level or more: enlarge them"
        )
    weights = np.array(strides, dtype=np.int64)
    corner_0 = (origin - first) @ weights
    codes = np.stack(
        [
            corner_0 + remainder * weights.sum() - size * ((rank >= size - remainder) @ weights)
            for remainder in range(size)
        ],
        axis=1,
    )
    return codes, [sum(strides) - size * stride for stride in [*strides, 0]]


def _blur(cells: NDArray[np.int64], step: int) -> sparse.csr_array:
    """The kernel [1, 2, 1] / 4 along an axis, (M, M); ``cells`` are the sorted codes of the lattice points that are
    kept.
    """
    position = np.searchsorted(cells, cells + step).clip(max=len(cells) - 1)
    here = np.flatnonzero(cells[position] == cells + step)
    there = position[here]
    quarter = sparse.csr_array(
        (np.full(len(here), 0.25, dtype=np.float32), (here, there)), shape=(len(cells), len(cells))
    )
    return (quarter + quarter.T + 0.5 * sparse.eye_array(len(cells), dtype=np.float32)).tocsr()

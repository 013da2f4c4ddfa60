"""Checks of confusion matrices, and ratios of their sums that may be undefined.

Counts are ``(..., C, C)``, rows = truth, columns = prediction; hits (n_ii), truth (row sums t_i) and predicted (column
sums) are ``(..., C)``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmodels.errors import InputError

Absent = Literal["skip", "zero", "one"]
UNDEFINED = {"skip": np.nan, "zero": 0.0, "one": 1.0}


def marginals(counts: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Hits, truth and predicted of counts."""
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def iou_terms(hits: NDArray, truth: NDArray, predicted: NDArray) -> tuple[NDArray, NDArray]:
    """Intersection and union of each class."""
    return hits, truth + predicted - hits


def frequency_weighted(hits: NDArray, truth: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    """IoU with each class weighted by its share of true pixels, ``(...)``; NaN without pixels."""
    return ratio((truth * ratio(*iou_terms(hits, truth, predicted), "zero")).sum(-1), truth.sum(-1), "skip")


def ratio(numerator: NDArray, denominator: NDArray, absent: Absent) -> NDArray[np.float64]:
    """Elementwise; where the denominator is 0, what ``absent`` says (see ``scores``).

    Raises:
        InputError: ``absent`` is none of its values.
    """
    if absent not in UNDEFINED:
        raise InputError(f"absent is {absent!r}, expected one of {list(UNDEFINED)}")
    value = np.full(np.shape(denominator), UNDEFINED[absent])
    return np.divide(numerator, denominator, out=value, where=denominator > 0)


def means(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(scores)
    return ratio(np.where(defined, scores, 0).sum(-1), defined.sum(-1), "skip")


def mean(scores: NDArray[np.float64]) -> float:
    """Mean of the scores ``(N,)`` that are defined; NaN where none is."""
    return float(means(scores))


def matrix(counts: ArrayLike) -> NDArray:
    """``counts`` as an integer array (C, C).

    Raises:
        InputError: another shape or type, or negative numbers.
    """
    counts = integer_counts(counts)
    if counts.ndim != 2:
        raise InputError(
            f"confusion matrix has shape {counts.shape}, expected (C, C): sum over images, or use a mean_per_image"
            " score"
        )
    return counts


def stack(image_counts: ArrayLike) -> NDArray:
    """``image_counts`` as an integer array (N, C, C); errors as ``matrix``."""
    image_counts = integer_counts(image_counts)
    if image_counts.ndim != 3:
        raise InputError(
            f"stack of confusion matrices has shape {image_counts.shape}, expected (N, C, C): one matrix per image"
        )
    return image_counts


def integer_counts(counts: ArrayLike) -> NDArray:
    """``counts`` as an integer array (..., C, C); errors as ``matrix``."""
    counts = np.asarray(counts)
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise InputError(
            f"confusion matrix has shape {counts.shape} and type {counts.dtype}, expected square and integers of 0 and"
            " above: pass counts, not shares"
        )
    return counts.astype(np.int64, copy=False)

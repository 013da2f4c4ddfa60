"""Panoptic quality (Kirillov 2019, 1801.00868, equations 1 and 2), with the rules of the COCO panoptic API for void and
crowds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Segment
from segmodels.errors import InputError
from segmodels.metrics.ratios import means, ratio

VOID = 0
"""Id of pixels without a segment."""


class PanopticCounts(NamedTuple):
    """Counts of C classes, over one image or many; they add up field by field."""

    tp: NDArray  # (C,) or (R, C): matched segments
    fp: NDArray  # predicted segments without a true one
    fn: NDArray  # true segments without a predicted one
    iou: NDArray  # float64, sum of the IoU of matched segments


class Pairs(NamedTuple):
    """The segments of one image that match: rows of the true and of the predicted segments, and their IoU."""

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    iou: NDArray[np.float64]
    unmatched_true: NDArray[np.int64]  # rows that count as missed: neither matched nor crowds
    unmatched_predicted: NDArray[np.int64]  # rows that count as wrong: neither matched nor mostly void or crowd


def match_segments(
    predicted: NDArray, predicted_segments: Sequence[Segment], true: NDArray, true_segments: Sequence[Segment]
) -> Pairs:
    """Match the segments of a predicted and a true map ``(*spatial)`` of segment ids; ``VOID`` has none.

    A pair of one class matches where its IoU is above 0.5, pixels that are void in the truth left out of the union.
    Crowds match nothing. A predicted segment counts nowhere if more than half of it lies on void or on crowds of its
    class.

    Raises:
        InputError: maps of different sizes, or ids in a map that no segment has.
    """
    if predicted.shape != true.shape:
        raise InputError(f"predicted map has size {predicted.shape}, expected {true.shape} as the true map")
    rows, columns = _rows(true, true_segments, "true"), _rows(predicted, predicted_segments, "predicted")
    shape = len(true_segments) + 1, len(predicted_segments) + 1
    shared = np.bincount((rows * shape[1] + columns).ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    void, inter = shared[0, 1:], shared[1:, 1:]
    area = shared[:, 1:].sum(axis=0)
    labels = np.array([segment.label for segment in predicted_segments], dtype=np.int64)
    true_labels = np.array([segment.label for segment in true_segments], dtype=np.int64)
    crowd = np.array([segment.crowd for segment in true_segments], dtype=bool)
    same = true_labels[:, None] == labels
    union = shared[1:].sum(axis=1)[:, None] + area - inter - void
    fits = same & ~crowd[:, None] & (2 * inter > union)  # at most one per row and column: segments do not overlap
    matched_true, matched = np.nonzero(fits)
    excused = void + (inter * (same & crowd[:, None])).sum(axis=0)
    wrong = ~fits.any(axis=0) & ~(2 * excused > area) & (area > 0)
    missed = ~fits.any(axis=1) & ~crowd
    return Pairs(
        matched_true,
        matched,
        inter[matched_true, matched] / union[matched_true, matched],
        np.flatnonzero(missed),
        np.flatnonzero(wrong),
    )


def count_segments(
    pairs: Pairs, predicted_segments: Sequence[Segment], true_segments: Sequence[Segment], num_classes: int
) -> PanopticCounts:
    """Counts of one image by class, int64 and float64 ``(C,)``."""
    labels = np.array([segment.label for segment in predicted_segments], dtype=np.int64)
    true_labels = np.array([segment.label for segment in true_segments], dtype=np.int64)
    hits = true_labels[pairs.true]
    iou = np.zeros(num_classes)
    np.add.at(iou, hits, pairs.iou)
    return PanopticCounts(
        np.bincount(hits, minlength=num_classes),
        np.bincount(labels[pairs.unmatched_predicted], minlength=num_classes),
        np.bincount(true_labels[pairs.unmatched_true], minlength=num_classes),
        iou,
    )


def qualities(counts: PanopticCounts) -> dict[str, NDArray[np.float64]]:
    """``pq``, ``sq`` (mean IoU of matched segments) and ``rq`` (F1 of segments) of each class, of the counts' shape.

    All are NaN for a class that is neither in the truth nor predicted, ``sq`` is 0 for a class without a match.
    """
    tp, fp, fn, iou = counts
    size = tp + fp / 2 + fn / 2
    return {
        "pq": ratio(iou, size, "skip"),
        "sq": np.where(size > 0, iou / np.maximum(tp, 1), np.nan),
        "rq": ratio(tp, size, "skip"),
    }


def mean_of_classes(values: NDArray, classes: Sequence[int]) -> NDArray[np.float64]:
    """Mean over those of ``classes`` that are not NaN, along the last axis; NaN where there are none."""
    return means(values[..., list(classes)])


def _rows(ids: NDArray, segments: Sequence[Segment], name: str) -> NDArray[np.int64]:
    """``ids`` as 1 + their rows in ``segments``, 0 for void."""
    known = np.array([VOID, *(segment.id for segment in segments)], dtype=np.int64)
    order = np.argsort(known)
    found = np.clip(np.searchsorted(known[order], ids), 0, len(known) - 1)
    if (wrong := known[order][found] != ids).any():
        raise InputError(
            f"{name} map holds the ids {np.unique(ids[wrong]).tolist()[:5]}, expected those of its segments or {VOID}:"
            " name each in its segments"
        )
    return order[found]

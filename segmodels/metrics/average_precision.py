"""Average precision of scored masks, as the COCO evaluation counts it (Lin 2014, 1405.0312; ``COCOeval`` of
pycocotools 2.0).

The objects of an image are matched once, for every IoU threshold and every range of sizes together. All scores are
weighted cumulative sums over these matches, so that a bootstrap over images never matches again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from segmodels.errors import InputError
from segmodels.metrics.object_matching import AREAS, THRESHOLDS, Matches
from segmodels.metrics.ratios import means
from segmodels.suggest import nearest

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read."""

PRECISIONS = {
    "mask_ap": ("", slice(None)),
    "mask_ap50": ("", slice(0, 1)),
    "mask_ap75": ("", slice(5, 6)),
    "mask_ap_small": ("_small", slice(None)),
    "mask_ap_medium": ("_medium", slice(None)),
    "mask_ap_large": ("_large", slice(None)),
}
"""Average precision -> suffix of its range of areas, and its IoU thresholds."""

RECALLED = {f"mask_ar{suffix}": (suffix, slice(None)) for suffix in AREAS}
"""Average recall -> the same."""

SCORES = PRECISIONS | RECALLED

MEMORY = 1 << 26  # bytes that one chunk of resamples may take


class AveragePrecision:
    """Scores of the matches of many images, in the order of their ids.

    Args:
        images: id -> matches.
        num_classes: C; labels are 0..C-1.
    """

    def __init__(self, images: Mapping[str, Matches], num_classes: int) -> None:
        self.ids = sorted(images)
        self.num_classes = num_classes
        rows = [images[name] for name in self.ids]
        self._objects = np.zeros((len(rows), num_classes, len(AREAS)))
        for counts, row in zip(self._objects, rows, strict=True):
            counts[row.classes] = row.objects
        lengths = [len(row.labels) for row in rows]
        fields = [np.concatenate([row[i] for row in rows]) if rows else np.zeros(0, np.int64) for i in range(4)]
        order = np.lexsort((-fields[1], fields[0]))  # stable: of equal scores the first image comes first
        self._image = np.repeat(np.arange(len(rows)), lengths)[order]
        labels, self._scores, self._matched, self._ignored = (field[order] for field in fields)
        self._borders = np.searchsorted(labels, np.arange(num_classes + 1))

    def per_class(self, score: str, weights: NDArray | None = None) -> NDArray[np.float64]:
        """Average precision or recall of each class in each resample ``(R, C)``; NaN for classes without objects.

        Args:
            score: a key of ``SCORES``.
            weights: integers ``(R, images)``, how often each image occurs; None: each once, R = 1. Detections of
                equal score in one image and class count as if all of its copies were of one rank.
        """
        if score not in SCORES:
            raise nearest("score of instances", score, list(SCORES))
        weights = np.ones((1, len(self.ids)), np.int64) if weights is None else np.asarray(weights)
        if weights.ndim != 2 or weights.shape[1] != len(self.ids):
            raise InputError(
                f"weights have shape {weights.shape}, expected (resamples, {len(self.ids)}): one per image"
            )
        suffix, thresholds = SCORES[score]
        count = self._recall if score in RECALLED else self._interpolated
        area = list(AREAS).index(suffix)
        precision = np.full((len(weights), self.num_classes), np.nan)
        for chunk in _chunks(len(weights), int(np.diff(self._borders).max(initial=1))):
            objects = weights[chunk] @ self._objects[:, :, area]
            for c in np.flatnonzero(objects.any(axis=0)).tolist():
                present = np.flatnonzero(objects[:, c] > 0) + chunk.start
                bits = area * len(THRESHOLDS) + np.arange(len(THRESHOLDS))[thresholds]
                counted: dict[bytes, NDArray] = {}  # few detections have other outcomes at each threshold
                of_class = []
                for outcome in self._outcomes(c, bits):
                    key = outcome.tobytes()
                    if key not in counted:
                        counted[key] = count(c, outcome, weights[present], objects[:, c])
                    of_class.append(counted[key])
                precision[present, c] = np.mean(of_class, axis=0)
        return precision

    def mean(self, score: str, weights: NDArray | None = None) -> NDArray[np.float64]:
        """The mean over the classes with objects, ``(R,)``; NaN where there are none. Arguments as of ``per_class``."""
        return means(self.per_class(score, weights))

    def objects(self, label: int) -> int:
        """How many objects of a class count."""
        return int(self._objects[:, label, 0].sum())

    def curves(self) -> NDArray[np.float64]:
        """Precision of each class at ``RECALLS`` and IoU 0.5, ``(C, 101)``, whose mean is ``mask_ap50``; NaN for
        classes without objects.
        """
        found = np.full((self.num_classes, len(RECALLS)), np.nan)
        each_once = np.ones((1, len(self.ids)), np.int64)
        for label in range(self.num_classes):
            objects = self._objects[:, label, 0].sum(keepdims=True)
            if objects[0] > 0:
                (outcome,) = self._outcomes(label, np.zeros(1, dtype=np.int64))
                precision, reached = self._precision(label, outcome, each_once, objects)
                found[label] = 0
                found[label, : int(reached.sum())] = np.repeat(precision[0], reached[0])
        return found

    def best_threshold(self) -> float:
        """The score from which detections fit the objects best: largest F1 at IoU 0.5 over all classes together; NaN
        without a right detection.
        """
        counts = (self._ignored & 1) == 0
        right = counts & ((self._matched & 1) == 1)
        order = np.argsort(-self._scores, kind="stable")
        hits = np.cumsum(right[order])
        if not len(hits) or not hits[-1]:
            return math.nan
        last = np.append(np.diff(self._scores[order]) != 0, True)  # equal scores are taken together
        f1 = np.where(last, 2 * hits / (np.cumsum(counts[order]) + self._objects[:, :, 0].sum()), 0)
        return float(self._scores[order[f1.argmax()]])

    def _of_class(self, label: int) -> slice:
        return slice(self._borders[label], self._borders[label + 1])

    def _outcomes(self, label: int, bits: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each detection of a class counts, and whether it is right, ``(bits, 2, n)``."""
        of_class = self._of_class(label)
        outcomes = np.stack([~self._ignored[of_class], ~self._ignored[of_class] & self._matched[of_class]])
        return (outcomes >> bits[:, None, None] & 1).astype(bool)

    def _recall(self, label: int, outcome: NDArray, weights: NDArray, objects: NDArray) -> NDArray[np.float64]:
        """Share of the objects that have a detection, ``(R,)``."""
        hits = weights[:, self._image[self._of_class(label)][outcome[1]]].sum(axis=1)
        return np.asarray(hits / objects[objects > 0])

    def _interpolated(self, label: int, outcome: NDArray, weights: NDArray, objects: NDArray) -> NDArray[np.float64]:
        """Mean over ``RECALLS`` of the largest precision at that recall or beyond, ``(R,)``."""
        precision, reached = self._precision(label, outcome, weights, objects)
        return np.asarray((precision * reached).sum(axis=1) / len(RECALLS))

    def _precision(
        self, label: int, outcome: NDArray, weights: NDArray, objects: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The largest precision at the recall of each right detection or beyond, and how many of ``RECALLS`` each
        reaches first, ``(R, hits)`` both.
        """
        counts, right = outcome
        drawn = weights[:, self._image[self._of_class(label)]]
        ranked = np.cumsum(drawn * counts, axis=1)[:, right]
        hits = np.cumsum(drawn[:, right], axis=1)  # recall grows at these detections only
        precision = hits / (ranked + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, hits / objects[objects > 0][:, None], side="right")
        return precision, np.diff(reached, axis=1, prepend=0)


def _chunks(resamples: int, detections: int) -> Iterator[slice]:
    step = max(1, MEMORY // (8 * 6 * detections))
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))

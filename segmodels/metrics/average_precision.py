"""Average precision of scored masks, as the COCO evaluation counts it (Lin 2014, 1405.0312; ``COCOeval`` of
pycocotools 2.0).

The objects of an image are matched once, for every IoU threshold and every range of sizes together. All scores are
weighted cumulative sums over these matches, so that a bootstrap over images never matches again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmodels.errors import InputError, nearest

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of the IoU from which a detection fits an object."""

AREAS = {"": (0.0, 1e10), "_small": (0.0, 32.0**2), "_medium": (32.0**2, 96.0**2), "_large": (96.0**2, 1e10)}
"""Suffix of a score -> smallest and largest area of its objects in pixels, both included."""

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read."""

MOST = 100
"""Detections of a class in an image that count, those with the best scores."""

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

SURE = 0.3
"""Score from which a detection is drawn and enters confusion matrices, as in mmdetection's tools."""

UNPAIRED, EXCUSED = -1, -2
"""Of a detection without an object, and of one that lies in a crowd."""

MEMORY = 1 << 26  # bytes that one chunk of resamples may take


class Matches(NamedTuple):
    """Detections and objects of one image, matched.

    A detection's outcomes are bits: number ``area * 10 + threshold``, in the orders of ``AREAS`` and ``THRESHOLDS``.
    """

    labels: NDArray[np.int64]  # (D,), best score first
    scores: NDArray[np.float64]  # (D,)
    matched: NDArray[np.int64]  # (D,) bits: it has an object
    ignored: NDArray[np.int64]  # (D,) bits: it counts neither as right nor as wrong
    classes: NDArray[np.int64]  # (K,) classes with objects, ascending
    objects: NDArray[np.int64]  # (K, 4) how many of them count, per range of areas


def match(
    iou: NDArray,
    labels: NDArray,
    scores: NDArray,
    areas: NDArray,
    true_labels: NDArray,
    true_areas: NDArray,
    crowd: NDArray,
) -> Matches:
    """Match the D detections of an image with its G objects.

    Detections take, best score first, the free object of their class with the largest IoU of at least the threshold; of
    equal ones the last. Crowds are never used up, and like objects outside the range of areas they are taken where
    nothing else fits; what takes them is ignored, as are detections without an object outside the range.

    Args:
        iou: ``(D, G)``; for crowds the intersection as a share of the detection's area.
        labels, scores, areas: ``(D,)``, in any order; of equal scores the first comes first.
        true_labels, true_areas: ``(G,)``, areas in pixels as the dataset states them.
        crowd: ``(G,)`` bool.
    """
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    order = order[_place_in_class(labels[order]) < MOST]
    labels, scores, areas, iou = labels[order].astype(np.int64), scores[order], areas[order], iou[order]
    ranges = np.array(list(AREAS.values()))
    uncounted = crowd | (true_areas < ranges[:, :1]) | (true_areas > ranges[:, 1:])  # (A, G)
    outside = (areas[:, None] < ranges[:, 0]) | (areas[:, None] > ranges[:, 1])  # (D, A)
    matched = np.zeros((len(scores), len(AREAS), len(THRESHOLDS)), dtype=bool)
    ignored = np.repeat(outside[:, :, None], len(THRESHOLDS), axis=2)
    free = np.ones((len(AREAS), len(THRESHOLDS), len(crowd)), dtype=bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    iou = np.where(labels[:, None] == true_labels, iou, -1.0)
    for d in np.flatnonzero(iou.max(axis=1, initial=-1.0) >= THRESHOLDS[0]):  # all others fit nothing
        fits = free & (iou[d] >= least)
        counted = fits & ~uncounted[:, None]
        pool = np.where(counted.any(axis=2, keepdims=True), counted, fits)
        best = len(crowd) - 1 - np.where(pool, iou[d], -1.0)[..., ::-1].argmax(axis=2)  # (A, T), the last of equals
        found = pool.any(axis=2)
        matched[d] = found
        ignored[d] = np.where(found, np.take_along_axis(uncounted, best, axis=1), ignored[d])
        area, threshold = np.nonzero(found & ~crowd[best])
        free[area, threshold, best[area, threshold]] = False
    classes = np.unique(true_labels).astype(np.int64)
    objects = ((true_labels == classes[:, None])[:, None] & ~uncounted).sum(axis=2, dtype=np.int64)
    return Matches(labels, scores, _pack(matched), _pack(ignored), classes, objects)


def pair(iou: NDArray, scores: NDArray, crowd: NDArray, threshold: float = 0.5) -> NDArray[np.int64]:
    """The object of each detection ``(D,)``, or ``UNPAIRED`` or ``EXCUSED``: best score first, each takes the free
    object with the largest IoU of at least the threshold.

    Args:
        iou: ``(D, G)``; for crowds the intersection as a share of the detection's area.
        scores: ``(D,)``.
        crowd: ``(G,)`` bool.
    """
    objects = np.full(len(scores), UNPAIRED)
    free = ~crowd
    for d in np.argsort(-np.asarray(scores), kind="stable") if len(crowd) else ():
        fits = np.where(free, iou[d], -1.0)
        if fits.max() >= threshold:
            objects[d] = fits.argmax()
            free[objects[d]] = False
        elif np.where(crowd, iou[d], -1.0).max() >= threshold:
            objects[d] = EXCUSED
    return objects


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
            for c in range(self.num_classes):
                present = np.flatnonzero(objects[:, c] > 0) + chunk.start
                if len(present):
                    bits = area * len(THRESHOLDS) + np.arange(len(THRESHOLDS))[thresholds]
                    of_class = [count(c, int(bit), weights[present], objects[:, c]) for bit in bits]
                    precision[present, c] = np.mean(of_class, axis=0)
        return precision

    def mean(self, score: str, weights: NDArray | None = None) -> NDArray[np.float64]:
        """The mean over the classes with objects, ``(R,)``; NaN where there are none. Arguments as of ``per_class``."""
        precision = self.per_class(score, weights)
        present = ~np.isnan(precision)
        count = present.sum(axis=1)
        total = np.where(present, precision, 0).sum(axis=1)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

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
                precision, reached = self._precision(label, 0, each_once, objects)
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

    def _recall(self, label: int, bit: int, weights: NDArray, objects: NDArray) -> NDArray[np.float64]:
        """Share of the objects that have a detection, ``(R,)``."""
        of_class = slice(self._borders[label], self._borders[label + 1])
        right = ((self._ignored[of_class] >> bit & 1) == 0) & ((self._matched[of_class] >> bit & 1) == 1)
        hits = weights[:, self._image[of_class][right]].sum(axis=1)
        return np.asarray(hits / objects[objects > 0])

    def _interpolated(self, label: int, bit: int, weights: NDArray, objects: NDArray) -> NDArray[np.float64]:
        """Mean over ``RECALLS`` of the largest precision at that recall or beyond, ``(R,)``."""
        precision, reached = self._precision(label, bit, weights, objects)
        return np.asarray((precision * reached).sum(axis=1) / len(RECALLS))

    def _precision(
        self, label: int, bit: int, weights: NDArray, objects: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The largest precision at the recall of each right detection or beyond, and how many of ``RECALLS`` each
        reaches first, ``(R, hits)`` both.
        """
        of_class = slice(self._borders[label], self._borders[label + 1])
        counts = (self._ignored[of_class] >> bit & 1) == 0
        right = counts & ((self._matched[of_class] >> bit & 1) == 1)
        drawn = weights[:, self._image[of_class]]
        ranked = np.cumsum(drawn * counts, axis=1)[:, right]
        hits = np.cumsum(drawn[:, right], axis=1)  # recall grows at these detections only
        precision = hits / (ranked + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, hits / objects[objects > 0][:, None], side="right")
        return precision, np.diff(reached, axis=1, prepend=0)


def _place_in_class(labels: NDArray) -> NDArray[np.int64]:
    """How many of the same label stand before each."""
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return places


def _pack(outcomes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Bools ``(D, A, T)`` as bits ``(D,)``."""
    bits = outcomes.shape[1] * outcomes.shape[2]
    return (outcomes.reshape(len(outcomes), bits) << np.arange(bits)).sum(axis=1, dtype=np.int64)


def _chunks(resamples: int, detections: int) -> Iterator[slice]:
    step = max(1, MEMORY // (8 * 6 * detections))
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))


def box_iou(boxes: NDArray, true_boxes: NDArray, crowd: NDArray) -> NDArray[np.float64]:
    """IoU ``(D, G)`` of boxes left, top, right, bottom; for crowds the intersection as a share of the detection's
    area.
    """
    from pycocotools import mask

    if not (len(boxes) and len(true_boxes)):
        return np.zeros((len(boxes), len(true_boxes)))
    first, second = (np.hstack([own[:, :2], own[:, 2:] - own[:, :2]]).astype(np.float64) for own in (boxes, true_boxes))
    return np.asarray(mask.iou(first, second, crowd.astype(np.uint8).tolist()))


def mask_iou(masks: Sequence[Mapping], true_masks: Sequence[Mapping], crowd: NDArray) -> NDArray[np.float64]:
    """IoU ``(D, G)`` of masks in COCO RLE; for crowds the intersection as a share of the detection's area."""
    from pycocotools import mask

    if not (len(masks) and len(true_masks)):
        return np.zeros((len(masks), len(true_masks)))
    return np.asarray(mask.iou(list(masks), list(true_masks), crowd.astype(np.uint8).tolist()))

"""Detections of an image matched with its objects, as the COCO evaluation matches them (Lin 2014, 1405.0312;
``COCOeval`` of pycocotools 2.0): for every IoU threshold and every range of sizes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of the IoU from which a detection fits an object."""

AREAS = {"": (0.0, 1e10), "_small": (0.0, 32.0**2), "_medium": (32.0**2, 96.0**2), "_large": (96.0**2, 1e10)}
"""Suffix of a score -> smallest and largest area of its objects in pixels, both included."""

MOST = 100
"""Detections of a class in an image that count, those with the best scores."""

SURE = 0.3
"""Score from which a detection is drawn and enters confusion matrices, as in mmdetection's tools."""

UNPAIRED, EXCUSED = -1, -2
"""Of a detection without an object, and of one that lies in a crowd."""


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
    iou = np.where(labels[:, None] == true_labels, iou, -1.0)
    taken = _taken(iou, uncounted, crowd, np.minimum(THRESHOLDS, 1 - 1e-10))
    matched = taken != UNPAIRED
    of_taken = np.pad(uncounted, ((0, 0), (0, 1)))[np.arange(len(AREAS))[:, None], taken]  # of none the last column
    ignored = np.where(matched, of_taken, outside[:, :, None])
    classes = np.unique(true_labels).astype(np.int64)
    objects = ((true_labels == classes[:, None])[:, None] & ~uncounted).sum(axis=2, dtype=np.int64)
    return Matches(labels, scores, _pack(matched), _pack(ignored), classes, objects)


def pair(iou: NDArray, scores: NDArray, crowd: NDArray) -> NDArray[np.int64]:
    """The object of each detection ``(D,)``, or ``UNPAIRED`` or ``EXCUSED``: best score first, each takes the free
    object with the largest IoU of at least 0.5; of equal ones the last.

    Args:
        iou: ``(D, G)``; for crowds the intersection as a share of the detection's area.
        scores: ``(D,)``.
        crowd: ``(G,)`` bool.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    objects = np.full(len(order), UNPAIRED)
    objects[order] = _taken(iou[order], crowd[None], crowd, THRESHOLDS[:1])[:, 0, 0]
    objects[np.append(crowd, False)[objects]] = EXCUSED
    return objects


def _taken(iou: NDArray, uncounted: NDArray[np.bool_], crowd: NDArray[np.bool_], least: NDArray) -> NDArray[np.int64]:
    """The object that each detection takes for A ranges of areas and T thresholds, or ``UNPAIRED``: ``(D, A, T)``.

    Args:
        iou: ``(D, G)``, best detection first.
        uncounted: ``(A, G)``, objects that are taken where nothing else fits.
        crowd: ``(G,)``, objects that many detections may take.
        least: ``(T,)`` ascending, smallest IoU of each threshold.
    """
    taken = np.full((len(iou), len(uncounted), len(least)), UNPAIRED)
    near = iou >= least[0]
    if not near.any():
        return taken
    # nearly all detections are near one object alone, which goes to the first of them, whatever the range of areas
    disputed = near[near.sum(axis=1) > 1].any(axis=0)
    choosing = (near & disputed).any(axis=1)
    alone = np.flatnonzero(near.any(axis=1) & ~choosing)
    objects = near[alone].argmax(axis=1)
    grouped = np.argsort(objects, kind="stable")
    alone, objects = alone[grouped], objects[grouped]
    fits = iou[alone, objects][:, None] >= least
    before = np.cumsum(fits, axis=0) - fits
    before -= before[np.searchsorted(objects, objects)]
    takes = fits & ((before == 0) | crowd[objects][:, None])
    taken[alone] = np.where(takes, objects[:, None], UNPAIRED)[:, None]
    free = np.ones((*taken.shape[1:], len(crowd)), dtype=bool)
    for d in np.flatnonzero(choosing):
        fits = free & (iou[d] >= least[:, None])
        counted = fits & ~uncounted[:, None]
        pool = np.where(counted.any(axis=2, keepdims=True), counted, fits)
        best = len(crowd) - 1 - np.where(pool, iou[d], -1.0)[..., ::-1].argmax(axis=2)  # (A, T), the last of equals
        found = pool.any(axis=2)
        taken[d] = np.where(found, best, UNPAIRED)
        area, threshold = np.nonzero(found & ~crowd[best])
        free[area, threshold, best[area, threshold]] = False
    return taken


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

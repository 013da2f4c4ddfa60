"""Objects that several views of an image show, matched and averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmodels import run_lengths
from segmodels.metrics.object_matching import box_iou
from segmodels.results import Instances
from segmodels.run_lengths import Crop

LEAST = 0.5
"""IoU of the boxes from which objects of two views may be one."""

Window = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


class ObjectView(NamedTuple):
    """The objects that one view of an image shows."""

    found: Instances
    probabilities: Callable[[int, Window], NDArray]  # of an object's mask, of the pixels in a window: (h, w)


def averaged(views: Sequence[ObjectView], least: float) -> Instances:
    """One object for those of the views that have the same class and boxes with an IoU of at least 0.5. The best score
    chooses first, in each other view the free object of the largest IoU.

    Its score is the mean over all views, 0 where a view does not show it. Its box, and the probabilities of its mask,
    are the means over the views that show it.

    Args:
        least: smallest score.
    """
    size = views[0].found.size
    boxes, scores, labels, masks = [], [], [], []
    for group in _matched([view.found for view in views]):
        score = sum(views[view].found.scores[number] for view, number in group) / len(views)
        mask = _mean_mask([(views[view], number) for view, number in group])
        if score < least or mask is None:
            continue
        view, number = group[0]
        boxes.append(np.mean([views[view].found.boxes[number] for view, number in group], axis=0))
        scores.append(score)
        labels.append(views[view].found.labels[number])
        masks.append(mask)
    order = np.argsort(-np.array(scores, dtype=np.float32), kind="stable")
    return replace(
        views[0].found,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4)[order],
        scores=np.array(scores, dtype=np.float32)[order],
        labels=np.array(labels, dtype=np.int64)[order],
        masks=tuple(masks[place] for place in order),
        size=size,
    )


def _matched(views: Sequence[Instances]) -> Iterator[list[tuple[int, int]]]:
    """Groups of objects as (view, number), the best of each first, and the groups by its score."""
    ious = [[_same(first, second) for second in views] for first in views]
    free = [np.ones(len(found), dtype=bool) for found in views]
    every = [
        (-float(score), view, number) for view, found in enumerate(views) for number, score in enumerate(found.scores)
    ]
    for _, view, number in sorted(every):
        if not free[view][number]:
            continue
        group = [(view, number)]
        for other in range(len(views)):
            fits = np.where(free[other], ious[view][other][number], -1.0)
            if other != view and fits.max(initial=-1.0) >= LEAST:
                group.append((other, int(fits.argmax())))
        for place, chosen in group:
            free[place][chosen] = False
        yield group


def _same(first: Instances, second: Instances) -> NDArray[np.float64]:
    """IoU of the boxes, 0 for different classes: ``(N, M)``."""
    iou = box_iou(first.boxes, second.boxes, np.zeros(len(second), dtype=bool))
    return np.where(first.labels[:, None] == second.labels, iou, 0.0)


def _mean_mask(shown: Sequence[tuple[ObjectView, int]]) -> bytes | None:
    """The pixels whose mean probability is at least 0.5, None without one."""
    found, number = shown[0][0].found, shown[0][1]
    if len(shown) == 1:
        return found.masks[number]
    boxes = np.concatenate([run_lengths.boxes([view.found.masks[own]], found.size) for view, own in shown])
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0).astype(int), boxes[:, 2:].max(axis=0).astype(int)
    mean = np.mean([view.probabilities(own, (left, top, right, bottom)) for view, own in shown], axis=0)
    mask = mean >= 0.5
    return run_lengths.placed(Crop(left, top, mask), found.size) if mask.any() else None

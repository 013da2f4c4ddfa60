"""Objects and panoptic maps of images too large to predict at once: found in overlapping windows and joined.

Objects of one class in two windows are one if, in the area that both windows see, their masks have an IoU of at least
0.5. Masks are held run-length encoded; of the image only a strip of the windows' height is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segmodels import run_lengths
from segmodels.annotations import Segment
from segmodels.inference.sliding_window import window_rows, window_starts
from segmodels.labels import LabelMap
from segmodels.results import Instances, PanopticMap
from segmodels.run_lengths import Crop
from segmodels.windows import SlidingWindow

SAME = 0.5
"""IoU, in the area that two windows share, from which their objects are one."""

MARGIN = 2
"""Pixels from an inner border of a window within which an object counts as cut."""

Read = Callable[[int, int], Tensor]


def join_objects(
    predict: Callable[[Tensor], Sequence[Instances]], read: Read, size: tuple[int, int], window: SlidingWindow
) -> Instances:
    """The objects of an image, each once, best first.

    Of an object that windows see whole, the largest of these masks is taken with its score and box; of one that all of
    its windows cut, the masks together and the best score.

    Args:
        predict: windows (B, channels, *window.size) -> the objects of each.
        read: rows ``start`` .. ``stop - 1`` of the image, (channels, rows, W); each is asked for once, in order.
        size: height and width of the image.

    Raises:
        InputError: a window of volumes.
    """
    joined = _Joined(size, window)
    for top, _, row in window_rows(predict, read, size, window):
        for (left,), found in row:
            joined.add((top, left), found)
    return joined.objects()


def join_segments(
    predict: Callable[[Tensor], Sequence[PanopticMap]],
    read: Read,
    size: tuple[int, int],
    window: SlidingWindow,
    labels: LabelMap,
) -> PanopticMap:
    """The panoptic map of an image: its things as ``join_objects`` joins them, larger ones on top, and where there is
    none the stuff of the window whose centre is nearest.

    Args:
        predict: windows (B, channels, *window.size) -> the map of each.
        read, size: as of ``join_objects``.
        labels: with the things among the classes.
    """
    joined = _Joined(size, window)
    classes = np.full(size, -1, dtype=np.int32)
    own = [_own(*axis, window.overlap) for axis in zip(size, window.size, strict=False)]
    for top, _, row in window_rows(predict, read, size, window):
        for (left,), found in row:
            joined.add((top, left), _things(found, labels))
            rows, columns = own[0][top], own[1][left]
            ids = found.ids[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            table = np.full(int(found.ids.max()) + 1, -1, dtype=np.int32)
            for segment in found.segments:
                if segment.label not in labels.things:
                    table[segment.id] = segment.label
            classes[rows, columns] = table[ids]
    return _fused(joined.objects(), classes)


class _Part(NamedTuple):
    """An object as one window sees it."""

    window: int
    label: int
    score: float
    box: NDArray[np.float32]  # in pixels of the image
    mask: bytes  # of the window
    cut: bool


class _Window(NamedTuple):
    top: int
    left: int
    first: int  # of its parts
    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]  # around the pixels of its parts, in the image
    masks: tuple[bytes, ...]


class _Joined:
    """The objects of the windows so far."""

    def __init__(self, size: tuple[int, int], window: SlidingWindow) -> None:
        self._size = size
        self._extent = window.size[0], window.size[1]
        self._windows: list[_Window] = []
        self._open: list[_Window] = []  # that the next windows may overlap
        self._parts: list[_Part] = []
        self._pairs: list[tuple[int, int]] = []

    def add(self, corner: tuple[int, int], found: Instances) -> None:
        """The objects of the window at ``corner`` (top, left). Windows come from the top down."""
        top, left = corner
        shift = np.array([left, top, left, top])
        limit = np.array([self._size[1], self._size[0]] * 2)
        pixels = np.minimum(run_lengths.boxes(found.masks, self._extent).astype(np.int64) + shift, limit)
        there = np.flatnonzero((pixels[:, 2:] > pixels[:, :2]).all(axis=1))  # not in the border that extends the image
        masks = tuple(found.masks[number] for number in there)
        window = _Window(top, left, len(self._parts), found.labels[there], pixels[there], masks)
        inner = [left > 0, top > 0, left + self._extent[1] < self._size[1], top + self._extent[0] < self._size[0]]
        low = np.array([left, top])
        high = low + self._extent[::-1]
        near = np.hstack([pixels[:, :2] < low + MARGIN, pixels[:, 2:] > high - MARGIN]) & np.array(inner)
        boxes = np.minimum(found.boxes + shift.astype(np.float32), limit.astype(np.float32))
        for number, mask in zip(there, masks, strict=True):
            facts = int(found.labels[number]), float(found.scores[number]), boxes[number]
            self._parts.append(_Part(len(self._windows), *facts, mask, bool(near[number].any())))
        self._open = [other for other in self._open if other.top + self._extent[0] > top]
        for other in self._open:
            self._pairs += self._same(other, window)
        self._windows.append(window)
        self._open.append(window)

    def objects(self) -> Instances:
        """All objects, best first."""
        found = sorted((self._whole(group) for group in self._groups()), key=lambda part: -part[1])
        return Instances(
            self._size,
            np.array([box for _, _, box, _ in found], dtype=np.float32).reshape(-1, 4),
            np.array([score for _, score, _, _ in found], dtype=np.float32),
            np.array([label for label, _, _, _ in found], dtype=np.int64),
            tuple(mask for _, _, _, mask in found),
        )

    def _same(self, first: _Window, second: _Window) -> Iterator[tuple[int, int]]:
        """Parts of two windows that are one object: each at most once, the largest IoU first."""
        low = np.array([max(first.left, second.left), max(first.top, second.top)])
        high = np.array([min(first.left, second.left), min(first.top, second.top)]) + self._extent[::-1]
        if (high <= low).any() or not (len(first.labels) and len(second.labels)):
            return
        starts = np.maximum(np.maximum(first.boxes[:, None, :2], second.boxes[:, :2]), low)
        stops = np.minimum(np.minimum(first.boxes[:, None, 2:], second.boxes[:, 2:]), high)
        near = (stops > starts).all(axis=2) & (first.labels[:, None] == second.labels)
        pairs = np.argwhere(near)
        area = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        seen = [
            {int(number): self._seen(window, int(number), area) for number in np.unique(pairs[:, side])}
            for side, window in enumerate((first, second))
        ]
        ious = [(_iou(seen[0][int(a)], seen[1][int(b)]), int(a), int(b)) for a, b in pairs]
        taken: tuple[set[int], set[int]] = set(), set()
        for iou, a, b in sorted(ious, key=lambda row: -row[0]):
            if iou >= SAME and a not in taken[0] and b not in taken[1]:
                taken[0].add(a)
                taken[1].add(b)
                yield first.first + a, second.first + b

    def _seen(self, window: _Window, number: int, area: tuple[int, int, int, int]) -> Crop:
        """The pixels of a part in an area (left, top, right, bottom) of the image."""
        crop = self._placed(window, window.masks[number])
        left, top = max(area[0] - crop.left, 0), max(area[1] - crop.top, 0)
        pixels = crop.pixels[top : max(area[3] - crop.top, 0), left : max(area[2] - crop.left, 0)]
        return Crop(crop.left + left, crop.top + top, pixels)

    def _placed(self, window: _Window, mask: bytes) -> Crop:
        """The mask of a part in the image."""
        crop = run_lengths.crop(mask, self._extent)
        left, top = crop.left + window.left, crop.top + window.top
        return Crop(left, top, crop.pixels[: self._size[0] - top, : self._size[1] - left])

    def _groups(self) -> list[list[_Part]]:
        """The parts of each object."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not (count := len(self._parts)):
            return []
        rows, columns = np.array(self._pairs, dtype=np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
        objects, owner = connected_components(graph, directed=False)
        groups: list[list[_Part]] = [[] for _ in range(objects)]
        for part, place in zip(self._parts, owner.tolist(), strict=True):
            groups[place].append(part)
        return groups

    def _whole(self, group: Sequence[_Part]) -> tuple[int, float, NDArray, bytes]:
        """Label, score, box and mask of an object."""
        crops = [self._placed(self._windows[part.window], part.mask) for part in group]
        whole = [(int(crop.pixels.sum()), place) for place, crop in enumerate(crops) if not group[place].cut]
        if whole:
            best = max(whole)[1]
            part = group[best]
            return part.label, part.score, part.box, run_lengths.placed(crops[best], self._size)
        boxes = np.array([part.box for part in group])
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        mask = run_lengths.placed(run_lengths.union(crops), self._size)
        return group[0].label, max(part.score for part in group), box, mask


def _iou(first: Crop, second: Crop) -> float:
    left, top = max(first.left, second.left), max(first.top, second.top)
    right = min(own.left + own.pixels.shape[1] for own in (first, second))
    bottom = min(own.top + own.pixels.shape[0] for own in (first, second))
    if right <= left or bottom <= top:
        return 0.0
    parts = [
        own.pixels[top - own.top : bottom - own.top, left - own.left : right - own.left] for own in (first, second)
    ]
    common = int(np.count_nonzero(parts[0] & parts[1]))
    union = int(np.count_nonzero(first.pixels)) + int(np.count_nonzero(second.pixels)) - common
    return common / union if union else 0.0


def _own(length: int, size: int, overlap: float) -> dict[int, slice]:
    """First pixel of each window along an axis -> the pixels whose nearest window centre is its own."""
    starts = window_starts(length, size, overlap)
    middles = [(before + size + after) // 2 for before, after in pairwise(starts)]
    ends = zip([0, *middles], [*middles, length], strict=True)
    return {start: slice(*end) for start, end in zip(starts, ends, strict=True)}


def _things(found: PanopticMap, labels: LabelMap) -> Instances:
    """The objects of a map, all with score 1."""
    import scipy.ndimage

    size = (found.ids.shape[0], found.ids.shape[1])
    places = scipy.ndimage.find_objects(found.ids)
    things = [segment for segment in found.segments if segment.label in labels.things and places[segment.id - 1]]
    masks = []
    for segment in things:
        rows, columns = places[segment.id - 1]
        masks.append(run_lengths.placed(Crop(columns.start, rows.start, found.ids[rows, columns] == segment.id), size))
    own = np.array([segment.label for segment in things], dtype=np.int64)
    return Instances(size, run_lengths.boxes(masks, size), np.ones(len(things), np.float32), own, tuple(masks))


def _fused(objects: Instances, classes: NDArray[np.int32]) -> PanopticMap:
    """Objects over stuff; ``classes`` (H, W) are train ids of stuff, -1 where there is none."""
    ids = np.zeros(objects.size, dtype=np.int32)
    segments: list[Segment] = []
    areas = run_lengths.areas(objects.masks, objects.size)
    for number in np.argsort(-areas, kind="stable"):
        left, top, pixels = run_lengths.crop(objects.masks[number], objects.size)
        own = ids[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        visible = pixels & (own == 0)
        if visible.any():
            segments.append(Segment(len(segments) + 1, int(objects.labels[number])))
            own[visible] = len(segments)
    free = ids == 0
    for label in np.unique(classes[free]).tolist():
        if label >= 0:
            segments.append(Segment(len(segments) + 1, label))
            ids[free & (classes == label)] = len(segments)
    return PanopticMap(ids, tuple(segments))

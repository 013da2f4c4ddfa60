"""Masks as COCO's run-length encoding (RLE): some hundred bytes each, whatever the image's size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]


class Crop(NamedTuple):
    """Pixels of a mask within its box; the others are 0."""

    left: int
    top: int
    pixels: NDArray[np.bool_]  # (h, w)


def encode(masks: NDArray) -> list[bytes]:
    """Masks ``(N, H, W)`` of bools or 0 and 1 -> compressed counts of each."""
    from pycocotools import mask

    columns_first = np.asfortranarray(np.moveaxis(masks.astype(np.uint8, copy=False), 0, -1))
    return [rle["counts"] for rle in mask.encode(columns_first)]


def encode_ids(layers: NDArray[np.uint16], ids: Sequence[int]) -> list[bytes]:
    """Maps of ids ``(L, H, W)`` -> compressed counts of each mask, the pixels that have the id in any map. All masks
    together take one pass over the maps.

    Args:
        ids: all different.
    """
    pixels = layers.shape[1] * layers.shape[2]
    table = np.full(np.iinfo(layers.dtype).max + 1, -1)
    table[list(ids)] = np.arange(len(ids))
    runs = [np.zeros((3, 0), dtype=np.int64)]  # mask, first pixel, pixel behind the last; column by column
    for layer in layers:
        columns = cv2.transpose(layer).ravel()  # several times as fast as numpy
        borders = np.flatnonzero(columns[1:] != columns[:-1]) + 1
        starts, stops = np.append(0, borders), np.append(borders, pixels)
        owner = table[columns[starts]]
        runs.append(np.stack([owner, starts, stops])[:, owner >= 0])
    owner, starts, stops = np.concatenate(runs, axis=1)
    order = np.lexsort((starts, owner))
    owner = owner[order]
    first, last = starts[order] + owner * (pixels + 1), stops[order] + owner * (pixels + 1)
    reached = np.maximum.accumulate(last)
    begins = np.flatnonzero(np.append(True, first[1:] > reached[:-1])[: len(order)])  # runs that touch are one
    owner = owner[begins]
    inside = np.stack([first[begins], reached[np.append(begins[1:], len(order))[: len(begins)] - 1]], axis=1)
    borders = (inside - owner[:, None] * (pixels + 1)).ravel()
    return _compressed(np.append(borders, np.full(len(ids), pixels)), np.append(owner.repeat(2), np.arange(len(ids))))


def decode(counts: Sequence[bytes], size: Size) -> NDArray[np.bool_]:
    """Compressed counts -> masks ``(N, H, W)``."""
    from pycocotools import mask

    if not counts:
        return np.zeros((0, *size), dtype=bool)
    return np.moveaxis(mask.decode(objects(counts, size)), -1, 0).astype(bool)


def crop(counts: bytes, size: Size) -> Crop:
    """A mask within its box, without unpacking the image around it."""
    runs = _runs(counts)
    ends = np.cumsum(runs)
    starts, stops = ends[0:-1:2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return Crop(0, 0, np.zeros((0, 0), dtype=bool))
    left, right = int(starts[0]) // size[0], int(stops[-1] - 1) // size[0] + 1
    steps = np.zeros((right - left) * size[0] + 1, dtype=np.int8)
    steps[starts - left * size[0]] += 1
    steps[stops - left * size[0]] -= 1
    columns = np.cumsum(steps[:-1], dtype=np.int8).reshape(right - left, size[0]).astype(bool)
    rows = np.flatnonzero(columns.any(axis=0))
    return Crop(left, int(rows[0]), columns[:, rows[0] : rows[-1] + 1].T)


def cropped(mask: NDArray[np.bool_]) -> Crop:
    """A mask ``(H, W)`` within its box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Crop(0, 0, np.zeros((0, 0), dtype=bool))
    top, left = int(rows[0]), int(columns[0])
    return Crop(left, top, mask[top : rows[-1] + 1, left : columns[-1] + 1])


def placed(mask: Crop, size: Size) -> bytes:
    """Compressed counts of a mask that is given by its crop, which lies in the image."""
    from pycocotools import mask as coco

    height, width = mask.pixels.shape
    columns = np.zeros((width, height + 2), dtype=np.int8)
    columns[:, 1:-1] = mask.pixels.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    borders = (mask.left + column) * size[0] + mask.top + row
    # a run that ends with its column, and one that begins with the next, are one
    twice = np.flatnonzero(np.diff(borders) == 0)
    borders = np.delete(borders, [*twice, *(twice + 1)])
    pixels = size[0] * size[1]
    runs = np.diff(borders, prepend=0, append=pixels)
    if len(borders) and borders[-1] == pixels:
        runs = runs[:-1]
    (found,) = coco.frPyObjects([{"size": list(size), "counts": runs.tolist()}], *size)
    return bytes(found["counts"])


def resized(mask: Crop, size: Size, new: Size) -> Crop:
    """A mask of an image of ``size``, in the image at size ``new``: every pixel takes the value under its centre."""
    first = mask.top, mask.left
    places, starts = [], []
    for begin, extent, old, length in zip(first, mask.pixels.shape, size, new, strict=True):
        low, high = begin * length // old, min(-(-(begin + extent) * length // old), length)
        source = ((2 * np.arange(low, high) + 1) * old) // (2 * length) - begin
        inside = (source >= 0) & (source < extent)
        places.append(source[inside])
        starts.append(low + int(inside.argmax()) if inside.any() else low)
    return Crop(starts[1], starts[0], mask.pixels[np.ix_(*places)])


def union(crops: Sequence[Crop]) -> Crop:
    """The pixels of all masks together."""
    if not crops:
        return Crop(0, 0, np.zeros((0, 0), dtype=bool))
    left, top = min(crop.left for crop in crops), min(crop.top for crop in crops)
    right = max(crop.left + crop.pixels.shape[1] for crop in crops)
    bottom = max(crop.top + crop.pixels.shape[0] for crop in crops)
    pixels = np.zeros((bottom - top, right - left), dtype=bool)
    for crop in crops:
        height, width = crop.pixels.shape
        row, column = crop.top - top, crop.left - left
        pixels[row : row + height, column : column + width] |= crop.pixels
    return Crop(left, top, pixels)


def objects(counts: Iterable[bytes], size: Size) -> list[dict[str, Any]]:
    """What pycocotools takes: ``{"size": [H, W], "counts": bytes}`` each."""
    return [{"size": list(size), "counts": each} for each in counts]


def boxes(counts: Sequence[bytes], size: Size) -> NDArray[np.float32]:
    """Left, top, right, bottom of each mask ``(N, 4)``, right and bottom exclusive; zeros for empty masks."""
    from pycocotools import mask

    if not counts:
        return np.zeros((0, 4), dtype=np.float32)
    found = mask.toBbox(objects(counts, size)).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found.astype(np.float32)


def areas(counts: Sequence[bytes], size: Size) -> NDArray[np.float64]:
    """Pixels of each mask ``(N,)``."""
    from pycocotools import mask

    return np.asarray(mask.area(objects(counts, size)), dtype=np.float64) if counts else np.zeros(0)


def _compressed(borders: NDArray[np.int64], owner: NDArray[np.int64]) -> list[bytes]:
    """Counts of masks whose runs end at ``borders``, the last of each mask at its last pixel (``rleToString`` of
    pycocotools).

    Args:
        owner: mask of each border, 0, 1, ...; the borders of a mask ascend.
    """
    order = np.argsort(owner, kind="stable")
    borders, owner = borders[order], owner[order]
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    runs = borders - np.where(place > 0, np.roll(borders, 1), 0)
    kept = (runs > 0) | (place == 0)  # the last run of a mask may have no pixel
    runs, owner, place = runs[kept], owner[kept], place[kept]
    rest = runs - np.where(place > 2, np.roll(runs, 2), 0)
    digits, unfinished = [], np.ones(len(rest), dtype=bool)
    while unfinished.any():
        low, rest = rest & 31, rest >> 5
        more = rest != np.where(low & 16, -1, 0)
        digits.append(np.where(unfinished, low + 32 * more + 48, 0))
        unfinished = unfinished & more
    text = np.stack(digits, axis=1).astype(np.uint8) if digits else np.zeros((0, 0), np.uint8)
    lengths = np.bincount(owner, (text > 0).sum(axis=1)).astype(np.int64)
    ends = np.cumsum(lengths)
    characters = text[text > 0].tobytes()
    return [characters[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _runs(counts: bytes) -> NDArray[np.int64]:
    """Lengths of the runs of 0 and 1 in turn, column by column (``rleFrString`` of pycocotools)."""
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    last = (digits & 32) == 0
    starts = np.flatnonzero(np.append(True, last[:-1]))
    lengths = np.diff(starts, append=len(digits))
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << 5 * place, starts)
    runs -= ((digits[last] & 16) > 0).astype(np.int64) << 5 * lengths
    for first in (1, 2):  # from the fourth on they are differences to the last but one
        runs[first::2] = np.cumsum(runs[first::2])
    return np.asarray(runs)

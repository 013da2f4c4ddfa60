"""Masks as COCO's run-length encoding (RLE): some hundred bytes each, whatever the image's size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]


def encode(masks: NDArray) -> list[bytes]:
    """Masks ``(N, H, W)`` of bools or 0 and 1 -> compressed counts of each."""
    from pycocotools import mask

    columns_first = np.asfortranarray(np.moveaxis(masks.astype(np.uint8, copy=False), 0, -1))
    return [rle["counts"] for rle in mask.encode(columns_first)]


def decode(counts: Sequence[bytes], size: Size) -> NDArray[np.bool_]:
    """Compressed counts -> masks ``(N, H, W)``."""
    from pycocotools import mask

    if not counts:
        return np.zeros((0, *size), dtype=bool)
    return np.moveaxis(mask.decode(objects(counts, size)), -1, 0).astype(bool)


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

"""COCO's polygons and run-length encodings as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmodels.checks import shown
from segmodels.errors import InputError
from segmodels.files import check_shape

FEWEST_NUMBERS = 6
"""Of a polygon: three corners."""

WITHOUT_AREA = (0, 2)
"""Numbers of what is no polygon but covers nothing: annotation tools leave empty lists and single points among them."""

FARTHEST = 2**20
"""Pixels from the origin to the corners of a polygon. pycocotools takes memory for the pixels along its sides."""


def decode_mask(segmentation: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Polygons, or one polygon without a list around it (VIA), or a run-length encoding, compressed or not, as pixels
    ``(H, W)``. Points and empty lists among the polygons have none.

    Args:
        where: what errors call it.

    Raises:
        InputError: it is neither, or of another size.
    """
    from pycocotools import mask as coco

    height, width = size
    if isinstance(segmentation, list):
        if segmentation and all(isinstance(one, int | float) for one in segmentation):
            segmentation = [segmentation]
        segmentation = [one for one in segmentation if not (isinstance(one, list) and len(one) in WITHOUT_AREA)]
        for polygon in segmentation:
            numbers = isinstance(polygon, list) and all(isinstance(one, int | float) for one in polygon)
            if not numbers or len(polygon) < FEWEST_NUMBERS or len(polygon) % 2:
                raise InputError(
                    f"{where} has the polygon {shown(polygon)}, expected [x1, y1, x2, y2, x3, y3, ...]: correct it"
                )
            if far := [one for one in polygon if not abs(one) <= FARTHEST]:  # or not a number
                raise InputError(
                    f"{where} has a polygon with the coordinate {shown(far[0])}, expected pixels of an image of"
                    f" {width} x {height}: correct it"
                )
        if not segmentation:
            return np.zeros(size, dtype=bool)
        runs = coco.merge(coco.frPyObjects(segmentation, height, width))
    else:
        runs = _runs(segmentation, size, where)
    return np.asarray(coco.decode(runs), dtype=bool)


def _runs(encoded: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
    """A compressed run-length encoding that covers exactly the image: pycocotools would read beyond it."""
    from pycocotools import mask as coco

    try:
        check_shape(encoded, {"size": [int], "counts": (str, [int])})
        counts = encoded["counts"]
        runs = _decompressed(counts) if isinstance(counts, str) else counts
        if min(runs, default=0) < 0:
            raise ValueError(f"it has a run of {min(runs)} pixels")
        if encoded["size"] != list(size) or sum(runs) != size[0] * size[1]:
            raise ValueError(
                f"its size is {encoded['size']} and its runs have {sum(runs)} pixels, expected {list(size)} and"
                f" {size[0] * size[1]}"
            )
    except ValueError as error:
        raise InputError(f"{where} has a segmentation that cannot be understood ({error}): correct it") from None
    if isinstance(counts, str):
        return {"size": list(size), "counts": counts.encode("ascii")}
    return dict(coco.frPyObjects(encoded, *size))


def _decompressed(text: str) -> list[int]:
    """The run lengths of COCO's compressed form (cocoapi, maskApi.c, ``rleFrString``): 5 bits per character, the sixth
    says that more follow; from the third length on, differences to the one before the last.
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        value = shift = 0
        more = True
        while more:
            if place == len(text):
                raise ValueError("its run lengths end in the middle of a number")
            bits = ord(text[place]) - 48
            if not 0 <= bits < 64:
                raise ValueError(f"its run lengths hold the character {text[place]!r}")
            value |= (bits & 0x1F) << shift
            more, shift, place = bool(bits & 0x20), shift + 5, place + 1
            if not more and bits & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts

"""Maps of object ids, as datasets store them, become layers of segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import MOST_SEGMENTS, Segment, rows_of
from segmodels.errors import InputError

MANY = 2**21
"""Above, values are found faster by sorting than by counting."""


def one_layer(ids: NDArray, rows: Iterable[Segment]) -> tuple[NDArray[np.uint16], tuple[Segment, ...]]:
    """Objects that do not overlap: the layers ``(1, H, W)``, none without objects, and a row for each object.

    Args:
        ids: ``(H, W)`` whole numbers, 0 to 2**24 - 1.
        rows: their ``id`` is the object's value in ``ids``. Objects without a pixel are dropped, the others numbered
            from 1 in the order of the rows.

    Raises:
        InputError: more objects than a layer can number.
    """
    there = set(values_in(ids))
    found = [row for row in rows if row.id in there]
    if len(found) > MOST_SEGMENTS:
        raise InputError(f"an image has {len(found)} objects, expected at most {MOST_SEGMENTS}: leave some out")
    if not found:
        return np.zeros((0, *ids.shape), np.uint16), ()
    numbers = np.zeros(max(there) + 1, np.uint16)
    numbers[[row.id for row in found]] = np.arange(1, len(found) + 1)
    layers = numbers[ids][None]
    segments = [row._replace(id=number) for number, row in enumerate(found, start=1)]
    return layers, as_stated(layers, segments)


def values_in(ids: NDArray) -> list[int]:
    """The different values of a map of whole numbers, 0 to 2**24 - 1, in ascending order."""
    few = ids.size and ids.max() < MANY
    return [int(value) for value in (np.flatnonzero(np.bincount(ids.ravel())) if few else np.unique(ids))]


def as_stated(layers: NDArray[np.uint16], segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments that have a pixel; box and area from the layers where the dataset states none."""
    stated = {segment.id: segment for segment in segments}
    return tuple(
        row._replace(
            box=row.box if stated[row.id].box is None else stated[row.id].box,
            area=row.area if stated[row.id].area is None else stated[row.id].area,
        )
        for row in rows_of(layers, segments)
    )

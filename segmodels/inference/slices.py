"""Scores of parts of the images: by size, by brightness, by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmodels.data.shards import ShardReader
from segmodels.tasks.base import Evaluator

THIRDS = {"size": ("small", "medium", "large"), "brightness": ("dark", "middle", "bright")}
"""Names of the thirds of the images by each measure."""

MOST_GROUPS = 20
"""Groups that are scored, the largest ones."""

PIXELS = 256
"""On each axis of an image, evenly spaced, that its brightness is measured at."""

MAPPED = 64
"""Images after which memory maps are released, so that memory does not grow with the dataset."""


def score_slices(evaluator: Evaluator, reader: ShardReader, scores: list[str]) -> list[dict[str, Any]]:
    """A row per slice: ``by`` (size, brightness or group), ``slice``, ``low`` and ``high`` (of its pixels, or of the
    mean of their values; None for groups), ``images``, and each of ``scores``, NaN where undefined. Images that are all
    alike, or of one group, are not sliced.
    """
    measures = {
        "size": reader.sizes.prod(axis=1).astype(np.float64),
        "brightness": np.array(list(_brightnesses(reader))),
    }
    rows = []
    for by, values in measures.items():
        if values.min() == values.max():
            continue
        third = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values, side="left")
        for number, name in enumerate(THIRDS[by]):
            if (own := third == number).any():
                row = {"by": by, "slice": name, "low": float(values[own].min()), "high": float(values[own].max())}
                rows.append(row | _scored(evaluator, reader, np.flatnonzero(own), scores))
    sizes = Counter(group for group in reader.groups if group)
    for group, _ in sizes.most_common(MOST_GROUPS) if len(sizes) > 1 else []:
        own = np.flatnonzero([other == group for other in reader.groups])
        rows.append(
            {"by": "group", "slice": group, "low": None, "high": None} | _scored(evaluator, reader, own, scores)
        )
    return rows


def _scored(evaluator: Evaluator, reader: ShardReader, own: NDArray, scores: list[str]) -> dict[str, Any]:
    found = evaluator.only({reader.id(int(index)) for index in own}).scores()
    return {"images": len(own), **{name: found[name] for name in scores}}


def _brightnesses(reader: ShardReader) -> Iterator[float]:
    for index in range(len(reader)):
        yield _brightness(reader.image(index))
        if (index + 1) % MAPPED == 0:
            reader.release()


def _brightness(image: NDArray) -> float:
    steps = (slice(None, None, max(length // PIXELS, 1)) for length in image.shape[:-1])
    return float(image[tuple(steps)].mean(dtype=np.float64))

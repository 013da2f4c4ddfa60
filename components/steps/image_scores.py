"""Scores of single images as a Parquet table, written row by row and read back for comparisons between models."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segmodels.metrics.scores import frequency_weighted_iou, mean_iou, pixel_accuracy

ROWS_AT_ONCE = 512

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("pixels", pa.int64()),  # labelled pixels; the scores are null where there are none
        ("mean_iou", pa.float64()),  # over the classes that occur in this image, true or predicted
        ("pixel_accuracy", pa.float64()),
        ("frequency_weighted_iou", pa.float64()),
        ("cells", pa.list_(pa.int32())),  # true class * C + predicted class ...
        (
            "counts",
            pa.list_(pa.int64()),
        ),  # ... and how many pixels, for the cells of the image's confusion matrix that are not zero
    ]
)


class ImageScores:
    """Writes the table; a context manager. Holds at most 512 rows, and of each image one number: its mean IoU."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict] = []
        self.mean_ious: list[float] = []

    def add(self, sample_id: str, counts: NDArray[np.int64]) -> None:
        """One image's confusion matrix (C, C), rows = truth."""
        cells = np.flatnonzero(counts)
        scores = {
            "mean_iou": mean_iou(counts),
            "pixel_accuracy": pixel_accuracy(counts),
            "frequency_weighted_iou": frequency_weighted_iou(counts),
        }
        self.mean_ious.append(scores["mean_iou"])
        defined = {name: None if np.isnan(score) else score for name, score in scores.items()}
        self._rows.append(
            {
                "id": sample_id,
                "pixels": int(counts.sum()),
                **defined,
                "cells": cells,
                "counts": counts.reshape(-1)[cells],
            }
        )
        if len(self._rows) == ROWS_AT_ONCE:
            self._flush()

    def __enter__(self) -> ImageScores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []


def read_image_counts(path: Path, num_classes: int) -> NDArray[np.int64]:
    """The confusion matrices (N, C, C) of the table's images, in its order."""
    table = pq.read_table(path, columns=["cells", "counts"])
    stack = np.zeros((len(table), num_classes**2), dtype=np.int64)
    for row, cells, counts in zip(stack, table["cells"].to_pylist(), table["counts"].to_pylist(), strict=True):
        row[cells] = counts
    return stack.reshape(len(table), num_classes, num_classes)

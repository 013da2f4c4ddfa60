"""Counting class maps: the confusion matrix of every image, and all that follows from their sum."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.errors import InputError
from segmodels.files import parse_json, read_parquet, reading
from segmodels.labels import LabelMap
from segmodels.metrics import ConfusionMatrix, f1, iou, mean_f1, mean_iou, mean_recall, per_class, scores, summary
from segmodels.metrics.confusion import on_device
from segmodels.metrics.significance import SCORES, resampled, statistics
from segmodels.results import ClassMap
from segmodels.tasks import volume_cases
from segmodels.tasks.base import Evaluator

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

TABLE = "per_image.parquet"
CELLS_WAITING = 2**22  # of matrices that are left on a device until they are fetched, 32 MB

Cells = tuple[NDArray[np.int32], NDArray[np.int64]]  # of one image, as in the table


class SemanticEvaluator(Evaluator[ClassMap]):
    """Exact confusion matrices. Only the non-zero cells of each image are kept.

    Maps on a device are counted there without waiting for it; their matrices are fetched, many at once, when they take
    32 MB or a score is requested. Labels out of range raise InputError at that moment, and at once for maps in main
    memory. Dice and surface distances of each volume are kept as well.

    Args:
        labels: classes and ignored label of the annotations.
    """

    def __init__(self, labels: LabelMap) -> None:
        self.labels = labels
        self._images: dict[str, Cells] = {}
        self._waiting: dict[str, ConfusionMatrix] = {}  # on a device
        self._cases: volume_cases.Cases = {}

    def update(self, results: Sequence[ClassMap], annotations: Sequence[Annotation], ids: Sequence[str]) -> None:
        for result, annotation, name in zip(results, annotations, ids, strict=True):
            if name in self._images or name in self._waiting:
                raise InputError(f"image {name!r} is counted twice, expected every image once: give it one id")
            matrix = ConfusionMatrix.from_maps(
                result.map, annotation.classes, self.labels.num_classes, self.labels.ignore_index
            )
            if on_device(result.map):
                self._waiting[name] = matrix
            else:
                self._images[name] = _cells(matrix.counts)
            if len(annotation.size) == 3:
                self._cases[name] = volume_cases.rows_of(result.classes, annotation, self.labels)
        if len(self._waiting) * self.labels.num_classes**2 > CELLS_WAITING:
            self._fetch()

    def __add__(self, other: Self) -> Self:
        if self.labels.classes != other.labels.classes or self.labels.ignore_index != other.labels.ignore_index:
            raise InputError(
                f"counts of the classes {list(self.labels.classes)} and {list(other.labels.classes)} cannot be added,"
                " expected the same classes and ignored label"
            )
        mine, theirs = self._fetch(), other._fetch()
        if both := sorted(mine.keys() & theirs.keys()):
            raise InputError(
                f"image {both[0]!r} ({len(both)} in all) is counted in both sums, expected every image once"
            )
        total = type(self)(self.labels)
        total._images = mine | theirs
        total._cases = self._cases | other._cases
        return total

    def only(self, ids: Collection[str]) -> Self:
        some = type(self)(self.labels)
        some._images = {name: cells for name, cells in self._fetch().items() if name in ids}
        some._cases = {name: rows for name, rows in self._cases.items() if name in ids}
        return some

    def scores(self) -> dict[str, float]:
        counts = self.counts
        return summary(counts) | {
            "mean_recall": mean_recall(counts),
            "mean_f1": mean_f1(counts),
            "images": len(self._images),
            "pixels": int(counts.sum()),
            **volume_cases.mean_scores(self._cases),
        }

    def per_class(self) -> list[dict[str, Any]]:
        counts = self.counts
        rows = zip(per_class(counts, self.labels.classes), f1(counts), strict=True)
        return [row | {"f1": float(score)} for row, score in rows]

    def images(self) -> pa.Table:
        import pyarrow as pa

        rows = []
        for name, (cells, counts) in self._sorted():
            matrix = self._matrix(cells, counts)
            own = {
                "mean_iou": mean_iou(matrix),
                "pixel_accuracy": scores.pixel_accuracy(matrix),
                "frequency_weighted_iou": scores.frequency_weighted_iou(matrix),
            }
            defined = {key: None if np.isnan(score) else score for key, score in own.items()}
            pixels = int(counts.sum())
            rows.append(
                {
                    "id": name,
                    "score": defined["mean_iou"],
                    "pixels": pixels,
                    **defined,
                    "cells": cells,
                    "counts": counts,
                }
            )
        return pa.Table.from_pylist(rows, schema=_schema(self.labels))

    def confusion(self) -> tuple[Sequence[str], NDArray[np.int64]]:
        return self.labels.classes, self.counts

    @property
    def counts(self) -> NDArray[np.int64]:
        """The confusion matrix ``(C, C)`` of all images, rows = truth, columns = prediction."""
        total = np.zeros(self.labels.num_classes**2, dtype=np.int64)
        for cells, counts in self._fetch().values():
            total[cells] += counts
        return total.reshape(self.labels.num_classes, -1)

    def reordered(self, columns: Sequence[int]) -> SemanticEvaluator:
        """The same counts with renamed predictions: class ``i`` is what was predicted as ``columns[i]``."""
        names = np.empty(self.labels.num_classes, dtype=np.int64)
        names[np.asarray(columns)] = np.arange(self.labels.num_classes)
        renamed = SemanticEvaluator(self.labels)
        for name, (cells, counts) in self._fetch().items():
            truth, predicted = np.divmod(cells, self.labels.num_classes)
            moved = truth * self.labels.num_classes + names[predicted]
            order = np.argsort(moved)
            renamed._images[name] = moved[order].astype(np.int32), counts[order]
        return renamed

    def resampled(self, metric: str, weights: NDArray) -> NDArray[np.float64]:
        if metric not in SCORES:
            raise InputError(f"metric is {metric!r}, expected one of {list(SCORES)}")
        own = [statistics(self._matrix(*cells)[None])[0] for _, cells in self._sorted()]
        model = np.stack(own) if own else np.zeros((0, 3, self.labels.num_classes))
        return SCORES[metric](*resampled(model, np.asarray(weights, dtype=np.float64)))

    def figures(self) -> dict[str, Figure]:
        from segmodels import plots

        counts = self.counts
        return {
            "confusion": plots.confusion_matrix(counts, self.labels.classes),
            "class_iou": plots.class_bars(iou(counts), self.labels, "IoU", mean_iou(counts)),
        }

    def write(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        pq.write_table(self.images(), folder / TABLE, compression="zstd")
        if self._cases:
            volume_cases.write(self._cases, self.labels, folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        table = read_parquet(folder / TABLE, "evaluate")
        with reading(folder / TABLE, "evaluate"):
            evaluator = cls(LabelMap.from_dict(parse_json(table.schema.metadata[b"labels"])))
            columns = [table[name].to_pylist() for name in ("id", "cells", "counts")]
            for name, *lists in zip(*columns, strict=True):
                cells, counts = np.array(lists[0], dtype=np.int32), np.array(lists[1], dtype=np.int64)
                evaluator._matrix(cells, counts)  # raises for cells out of range
                evaluator._images[name] = cells, counts
        evaluator._cases = volume_cases.read(folder)
        return evaluator

    def __getstate__(self) -> dict[str, Any]:
        """Sent to other processes without what a device holds."""
        return {"labels": self.labels, "_images": self._fetch(), "_waiting": {}, "_cases": self._cases}

    def _fetch(self) -> dict[str, Cells]:
        """The cells of all images, those of devices included."""
        self._images |= {name: _cells(matrix.counts) for name, matrix in self._waiting.items()}
        self._waiting = {}
        return self._images

    def _sorted(self) -> list[tuple[str, Cells]]:
        return sorted(self._fetch().items(), key=lambda item: item[0])

    def _matrix(self, cells: NDArray[np.int32], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        matrix = np.zeros(self.labels.num_classes**2, dtype=np.int64)
        matrix[cells] = counts
        return matrix.reshape(self.labels.num_classes, -1)


def _schema(labels: LabelMap) -> pa.Schema:
    import pyarrow as pa  # a registered model predicts where it is not installed

    columns = [
        ("id", pa.string()),
        ("score", pa.float64()),  # the mean IoU
        ("pixels", pa.int64()),  # labelled pixels; the scores are null where there are none
        ("mean_iou", pa.float64()),  # over the classes that occur in this image, true or predicted
        ("pixel_accuracy", pa.float64()),
        ("frequency_weighted_iou", pa.float64()),
        ("cells", pa.list_(pa.int32())),  # true class * C + predicted class ...
        ("counts", pa.list_(pa.int64())),  # ... and how many pixels, of the image's confusion matrix where not zero
    ]
    return pa.schema(columns, metadata={"labels": json.dumps(labels.to_dict())})


def _cells(counts: NDArray[np.int64]) -> Cells:
    cells = np.flatnonzero(counts)
    return cells.astype(np.int32), counts.reshape(-1)[cells]

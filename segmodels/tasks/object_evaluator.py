"""The base of the evaluators of objects: a row of counts per image, their sum, their file, and the confusion matrix."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.errors import InputError
from segmodels.files import parse_json, read_parquet, reading
from segmodels.labels import LabelMap
from segmodels.tasks.base import Evaluator, Result

TABLE = "per_image.parquet"
NOTHING = "nothing"

ResultType = TypeVar("ResultType", bound=Result)
Row = dict[str, NDArray]


class ObjectEvaluator(Evaluator[ResultType]):
    """Counts of every image: lists of numbers by name, written as they are and added up in the order of the ids.

    Attributes:
        columns: name -> type of the lists.

    Args:
        labels: classes of the annotations.
    """

    columns: ClassVar[Mapping[str, pa.DataType]]

    def __init__(self, labels: LabelMap) -> None:
        self.labels = labels
        self._images: dict[str, Row] = {}

    @property
    @abstractmethod
    def classes(self) -> list[int]:
        """Train ids of the rows of the confusion matrix."""

    @abstractmethod
    def _count(self, result: ResultType, annotation: Annotation) -> tuple[Row, NDArray[np.int64]]:
        """The counts of one image by name, and its pairs of a true and a predicted row of the confusion matrix
        ``(N, 2)``.
        """

    @abstractmethod
    def _score(self, name: str) -> float:
        """The headline score of one image alone."""

    def update(self, results: Sequence[ResultType], annotations: Sequence[Annotation], ids: Sequence[str]) -> None:
        for result, annotation, name in zip(results, annotations, ids, strict=True):
            if name in self._images:
                raise InputError(f"image {name!r} is counted twice, expected every image once: give it one id")
            row, pairs = self._count(result, annotation)
            size = len(self.classes) + 1
            cells, counts = np.unique(pairs @ np.array([size, 1]), return_counts=True)
            row |= {"cells": cells.astype(np.int64), "counts": counts.astype(np.int64)}
            self._images[name] = row

    def __add__(self, other: Self) -> Self:
        if self.labels.classes != other.labels.classes or self.labels.things != other.labels.things:
            raise InputError(
                f"counts of the classes {list(self.labels.classes)} and {list(other.labels.classes)} cannot be added,"
                " expected the same classes and things"
            )
        if both := sorted(self._images.keys() & other._images.keys()):
            raise InputError(
                f"image {both[0]!r} ({len(both)} in all) is counted in both sums, expected every image once"
            )
        total = type(self)(self.labels)
        total._images = self._images | other._images
        return total

    def only(self, ids: Collection[str]) -> Self:
        some = type(self)(self.labels)
        some._images = {name: row for name, row in self._images.items() if name in ids}
        return some

    def confusion(self) -> tuple[Sequence[str], NDArray[np.int64]]:
        """Objects matched at IoU 0.5 whatever their classes; the last row holds predictions without an object, the last
        column objects without a prediction.
        """
        size = len(self.classes) + 1
        total = np.zeros(size * size, dtype=np.int64)
        for row in self._images.values():
            total[row["cells"]] += row["counts"]
        return [*(self.labels.classes[label] for label in self.classes), NOTHING], total.reshape(size, size)

    def images(self) -> pa.Table:
        names = self.ids
        scores = [self._score(name) for name in names]
        columns: dict[str, pa.Array] = {
            "id": pa.array(names, pa.string()),
            "score": pa.array([None if np.isnan(score) else score for score in scores], pa.float64()),
        }
        for column, kind in self._columns().items():
            columns[column] = pa.array([self._images[name][column] for name in names], pa.list_(kind))
        return pa.table(columns).replace_schema_metadata({"labels": json.dumps(self.labels.to_dict())})

    @property
    def ids(self) -> list[str]:
        """Ids of all images, sorted."""
        return sorted(self._images)

    def write(self, folder: Path) -> None:
        import pyarrow.parquet as pq  # registered models predict without it

        pq.write_table(self.images(), folder / TABLE, compression="zstd")

    @classmethod
    def read(cls, folder: Path) -> Self:
        table = read_parquet(folder / TABLE, "evaluate")
        with reading(folder / TABLE, "evaluate"):
            evaluator = cls(LabelMap.from_dict(parse_json(table.schema.metadata[b"labels"])))
            lists = {name: table[name].to_pylist() for name in cls._columns()}
            for number, name in enumerate(table["id"].to_pylist()):
                evaluator._images[name] = {
                    column: np.array(values[number], dtype=cls._columns()[column].to_pandas_dtype())
                    for column, values in lists.items()
                }
        return evaluator

    @classmethod
    def _columns(cls) -> dict[str, pa.DataType]:
        return {**cls.columns, "cells": pa.int64(), "counts": pa.int64()}


def confusion_pairs(
    true: Sequence[int], predicted: Sequence[int], pairs: Sequence[tuple[int, int]], size: int
) -> NDArray[np.int64]:
    """Cells (row, column) ``(N, 2)`` of a confusion matrix whose last row and column stand for *nothing*.

    Args:
        true, predicted: rows of the matrix, of all objects that count.
        pairs: indices into ``true`` and ``predicted`` of the matches.
        size: rows of the matrix, without the last.
    """
    missed, wrong = set(range(len(true))), set(range(len(predicted)))
    cells = []
    for t, p in pairs:
        cells.append((true[t], predicted[p]))
        missed.discard(t)
        wrong.discard(p)
    cells += [(true[t], size) for t in sorted(missed)] + [(size, predicted[p]) for p in sorted(wrong)]
    return np.array(cells, dtype=np.int64).reshape(-1, 2)

"""Counting panoptic maps: matched, wrong and missed segments of every image by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.metrics.panoptic import PanopticCounts, count_segments, match_segments, mean_of_classes, qualities
from segmodels.results import PanopticMap
from segmodels.suggest import nearest
from segmodels.tasks.object_evaluator import ObjectEvaluator, Row, confusion_pairs
from segmodels.tasks.object_truth import panoptic_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PanopticEvaluator(ObjectEvaluator[PanopticMap]):
    """Panoptic quality: ``pq``, ``sq``, ``rq``, each also of ``_things`` and ``_stuff`` alone."""

    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "classes": pa.int64(),  # those with a segment, true or predicted ...
        "tp": pa.int64(),  # ... and their counts
        "fp": pa.int64(),
        "fn": pa.int64(),
        "iou": pa.float64(),
    }

    @property
    def classes(self) -> list[int]:
        return list(range(self.labels.num_classes))

    def scores(self) -> dict[str, float]:
        counts = self.counts()
        segments = {"segments": int((counts.tp + counts.fn).sum())}
        return self._means(counts) | {"images": len(self._images)} | segments

    def per_class(self) -> list[dict[str, Any]]:
        counts = self.counts()
        columns = {name: values.tolist() for name, values in qualities(counts).items()}
        columns |= {name: getattr(counts, name).astype(np.int64).tolist() for name in ("tp", "fp", "fn")}
        return [
            {"class": name} | {key: column[label] for key, column in columns.items()}
            for label, name in enumerate(self.labels.classes)
        ]

    def resampled(self, metric: str, weights: NDArray) -> NDArray[np.float64]:
        known = list(self._means(self.counts()))
        if metric not in known:
            raise nearest("score of panoptic maps", metric, known)
        return np.asarray(self._means(self._weighted(np.asarray(weights)), only=metric)[metric])

    def figures(self) -> dict[str, Figure]:
        from segmodels import plots

        names, counts = self.confusion()
        quality = qualities(self.counts())["pq"]
        mean = float(mean_of_classes(quality, self.classes))
        return {
            "confusion": plots.confusion_matrix(counts, names, "segments"),
            "class_pq": plots.class_bars(quality, self.labels, "PQ", mean),
        }

    def counts(self) -> PanopticCounts:
        """Counts of all images, by class."""
        each_once = self._weighted(np.ones((1, len(self._images)), dtype=np.int64))
        tp, fp, fn, iou = (field[0] for field in each_once)
        return PanopticCounts(tp, fp, fn, iou)

    def _weighted(self, weights: NDArray) -> PanopticCounts:
        """Counts ``(R, C)`` with each image as often as ``weights`` (R, images) say."""
        shape = len(weights), self.labels.num_classes
        tp, fp, fn = np.zeros((3, *shape), dtype=np.int64)
        total = PanopticCounts(tp, fp, fn, np.zeros(shape))
        for place, name in enumerate(self.ids):
            row = self._images[name]
            for field, column in zip(total, ("tp", "fp", "fn", "iou"), strict=True):
                field[:, row["classes"]] += weights[:, place, None] * row[column]
        return total

    def _means(self, counts: PanopticCounts, only: str | None = None) -> dict[str, Any]:
        groups = {
            "": self.classes,
            "_things": sorted(self.labels.things),
            "_stuff": [label for label in self.classes if label not in self.labels.things],
        }
        values = qualities(counts)
        means = {
            name + suffix: mean_of_classes(values[name], chosen)
            for suffix, chosen in groups.items()
            for name in values
            if only in (None, name + suffix)
        }
        return means if only else {name: float(mean) for name, mean in means.items()}

    def _score(self, name: str) -> float:
        row = self._images[name]
        counts = PanopticCounts(row["tp"], row["fp"], row["fn"], row["iou"])
        return float(mean_of_classes(qualities(counts)["pq"], range(len(row["classes"]))))

    def _count(self, result: PanopticMap, annotation: Annotation) -> tuple[Row, NDArray[np.int64]]:
        truth = panoptic_map(annotation, self.labels)
        maps = result.ids, result.segments, truth.ids, truth.segments
        counts = count_segments(match_segments(*maps), result.segments, truth.segments, self.labels.num_classes)
        classes = np.flatnonzero(counts.tp + counts.fp + counts.fn)
        row = {name: getattr(counts, name)[classes] for name in ("tp", "fp", "fn", "iou")}
        return row | {"classes": classes}, self._confused(result, truth)

    def _confused(self, result: PanopticMap, truth: PanopticMap) -> NDArray[np.int64]:
        """Segments matched whatever their classes; what lies on void or a crowd does not count."""
        predicted, true = ([s._replace(label=0) for s in each.segments] for each in (result, truth))
        pairs = match_segments(result.ids, predicted, truth.ids, true)
        rows = [*pairs.true, *pairs.unmatched_true]
        columns = [*pairs.predicted, *pairs.unmatched_predicted]
        return confusion_pairs(
            [truth.segments[row].label for row in rows],
            [result.segments[column].label for column in columns],
            [(place, place) for place in range(len(pairs.true))],
            self.labels.num_classes,
        )

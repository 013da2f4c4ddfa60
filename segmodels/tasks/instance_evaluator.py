"""Counting objects: the matches of every image, and the average precisions that follow from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segmodels import run_lengths
from segmodels.annotations import Annotation
from segmodels.labels import LabelMap
from segmodels.metrics.average_precision import SCORES, AveragePrecision
from segmodels.metrics.object_matching import AREAS, EXCUSED, Matches, box_iou, mask_iou, match, pair
from segmodels.results import Instances
from segmodels.tasks.object_evaluator import ObjectEvaluator, Row, confusion_pairs
from segmodels.tasks.object_truth import encoded_masks, things_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OF_BOXES = {"box_ap": "mask_ap", "box_ap50": "mask_ap50"}
"""Score of boxes -> the score of masks that is counted alike."""


class InstanceEvaluator(ObjectEvaluator[Instances]):
    """Average precision of masks by the rules of COCO: ``mask_ap`` over IoU 0.50 .. 0.95, ``mask_ap50``, ``mask_ap75``,
    and ``mask_ap`` of small, medium and large objects; average recall ``mask_ar`` with up to 100 detections, and of
    each size; ``box_ap`` and ``box_ap50``, where detections fit objects by their boxes.

    The confusion matrix counts predictions with a score of at least their ``sure``.
    """

    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "labels": pa.int64(),  # of the predictions, best first ...
        "scores": pa.float64(),
        "matched": pa.int64(),  # ... and their outcomes, as ``Matches`` has them
        "ignored": pa.int64(),
        "box_matched": pa.int64(),  # the same outcomes where boxes are matched
        "box_ignored": pa.int64(),
        "classes": pa.int64(),  # those with objects ...
        "objects": pa.int64(),  # ... and how many count, for each range of areas
    }

    @property
    def classes(self) -> list[int]:
        return sorted(self.labels.things)

    def scores(self) -> dict[str, float]:
        counted = self._counted()
        objects = sum(counted.objects(label) for label in self.classes)
        means = {name: float(counted.mean(name)[0]) for name in SCORES}
        by_box = self._counted(boxes=True)
        means |= {name: float(by_box.mean(score)[0]) for name, score in OF_BOXES.items()}
        return means | {"images": len(self._images), "objects": objects}

    def per_class(self) -> list[dict[str, Any]]:
        counted = self._counted()
        columns = {name.removeprefix("mask_"): counted.per_class(name)[0].tolist() for name in SCORES}
        by_box = self._counted(boxes=True)
        columns |= {name: by_box.per_class(score)[0].tolist() for name, score in OF_BOXES.items()}
        return [
            {"class": self.labels.classes[label], "objects": counted.objects(label)}
            | {name: column[label] for name, column in columns.items()}
            for label in self.classes
        ]

    def resampled(self, metric: str, weights: NDArray) -> NDArray[np.float64]:
        return self._counted(metric in OF_BOXES).mean(OF_BOXES.get(metric, metric), weights)

    def figures(self) -> dict[str, Figure]:
        from segmodels import plots
        from segmodels.object_pictures import precision_recall

        names, counts = self.confusion()
        counted = self._counted()
        precision = counted.per_class("mask_ap")[0]
        return {
            "confusion": plots.confusion_matrix(counts, names, "objects"),
            "precision_recall": precision_recall(counted.curves(), self.labels),
            "class_ap": plots.class_bars(precision, self.labels, "AP", float(counted.mean("mask_ap")[0]), self.classes),
        }

    def threshold(self) -> float:
        """The score from which detections fit the objects best, see ``AveragePrecision.best_threshold``."""
        return self._counted().best_threshold()

    def _counted(self, boxes: bool = False) -> AveragePrecision:
        matches = {name: self._matches(row, boxes) for name, row in self._images.items()}
        return AveragePrecision(matches, self.labels.num_classes)

    def _score(self, name: str) -> float:
        alone = AveragePrecision({name: self._matches(self._images[name])}, self.labels.num_classes)
        return float(alone.mean("mask_ap")[0])

    @staticmethod
    def _matches(row: Row, boxes: bool = False) -> Matches:
        own = Matches(
            **{name: row[name] for name in Matches._fields} | {"objects": row["objects"].reshape(-1, len(AREAS))}
        )
        return own._replace(matched=row["box_matched"], ignored=row["box_ignored"]) if boxes else own

    def _count(self, result: Instances, annotation: Annotation) -> tuple[Row, NDArray[np.int64]]:
        truth = TrueObjects(annotation, self.labels)
        iou = mask_iou(result.objects(), run_lengths.objects(truth.masks, result.size), truth.crowd)
        areas = run_lengths.areas(result.masks, result.size)
        facts = result.labels, result.scores, areas, truth.labels, truth.areas, truth.crowd
        matches = match(iou, *facts)
        by_box = match(box_iou(result.boxes, truth.boxes, truth.crowd), *facts)
        row = matches._asdict() | {"objects": matches.objects.ravel()}
        row |= {"box_matched": by_box.matched, "box_ignored": by_box.ignored}
        sure = result.scores >= result.sure
        found = pair(iou[sure], result.scores[sure], truth.crowd)
        counted, objects = np.flatnonzero(found != EXCUSED), np.flatnonzero(~truth.crowd)
        places = {int(label): place for place, label in enumerate(self.classes)}
        pairs = [(int(np.searchsorted(objects, found[d])), place) for place, d in enumerate(counted) if found[d] >= 0]
        return row, confusion_pairs(
            [places[int(label)] for label in truth.labels[objects]],
            [places[int(label)] for label in result.labels[sure][counted]],
            pairs,
            len(places),
        )


class TrueObjects:
    """The objects of an annotation with what matching needs.

    Attributes:
        masks: compressed counts of COCO's run-length encoding.
        boxes, labels, areas, crowd: of each; boxes and areas as the dataset states them, else those of the mask.
    """

    def __init__(self, annotation: Annotation, labels: LabelMap) -> None:
        segments = things_of(annotation, labels)
        self.masks = encoded_masks(annotation, segments)
        pixels = run_lengths.areas(self.masks, (annotation.size[0], annotation.size[1]))
        stated = [segment.area for segment in segments]
        self.areas = np.array([own if area is None else area for own, area in zip(pixels, stated, strict=True)])
        around = run_lengths.boxes(self.masks, (annotation.size[0], annotation.size[1]))
        boxes = [segment.box or own for segment, own in zip(segments, around, strict=True)]
        self.boxes = np.array(boxes).reshape(-1, 4)
        self.labels = np.array([segment.label for segment in segments], dtype=np.int64)
        self.crowd = np.array([segment.crowd for segment in segments], dtype=bool)

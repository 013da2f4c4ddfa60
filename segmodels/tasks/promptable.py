"""A mask for every click (Segment Anything, Kirillov 2023, 2304.02643); for scores, annotations place the clicks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.annotations import Annotation
from segmodels.checks import check, whole_number
from segmodels.data.batches import EvaluationBatch
from segmodels.errors import InputError, nearest
from segmodels.labels import LabelMap
from segmodels.metrics.average_precision import mask_iou
from segmodels.prompts import Click, Prompts, add_clicks, first_click, prompts_of
from segmodels.results import Instances
from segmodels.tasks.base import Size
from segmodels.tasks.instance import InstanceTask
from segmodels.tasks.object_evaluator import ObjectEvaluator, Row, confusion_pairs
from segmodels.tasks.registry import register_task
from segmodels.tasks.targets import SegmentTargets

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PromptableSettings:
    """How a promptable model is measured.

    Attributes:
        clicks: clicks on each object when the model is measured; each click after the first corrects the mask so far.
    """

    clicks: int = 1

    def __post_init__(self) -> None:
        check(self, clicks=whole_number(1, 1000))


@register_task
class PromptableTask(InstanceTask):
    """Promptable segmentation: models take ``Prompts`` as their guide, and know no classes.

    Results have one object per prompted object, in the prompts' order, with the model's estimate of its IoU as score.
    """

    name: ClassVar[str] = "promptable"
    headline: ClassVar[Mapping[str, str]] = {"object_iou": "object IoU"}
    class_score: ClassVar[str] = "iou"
    answer: ClassVar[str] = "a mask for each prompted object"
    Settings: ClassVar[type] = PromptableSettings

    @classmethod
    def model_arguments(cls, labels: LabelMap) -> dict[str, Any]:
        return {"num_classes": 1}

    def targets(self, annotations: Sequence[Annotation]) -> SegmentTargets:
        targets = super().targets(annotations)
        segments = [own._replace(labels=torch.zeros_like(own.labels)) for own in targets.segments]
        return targets._replace(segments=segments)

    def read(self, output: Any, sizes: Sequence[Size]) -> list[Instances]:
        found: list[Instances] = output.objects(sizes)
        return found

    def predict(
        self, network: Callable[..., Any], images: Tensor, sizes: Sequence[Size], guides: Prompts | None = None
    ) -> list[Instances]:
        if guides is None:
            raise InputError("a promptable model got images alone, expected clicks too: give prompts")
        return self.read(network(images, guide=guides), sizes)

    def results(self, network: Callable[..., Any], batch: EvaluationBatch) -> list[Instances]:
        """The objects of the annotations, each clicked ``settings.clicks`` times; with their true classes."""
        truths = [self.truth(annotation) for annotation in batch.annotations]
        masks = [
            np.stack([t.mask(i) for i in range(len(t))]) if len(t) else np.zeros((0, *t.size), bool) for t in truths
        ]
        clicks = [[[first_click(mask)] for mask in own] for own in masks]
        found = self._answered(network, batch, clicks)
        for _ in range(1, self.settings.clicks):
            for own, rows, result in zip(masks, clicks, found, strict=True):
                add_clicks(rows, own, [result.mask(place) for place in range(len(own))])
            found = self._answered(network, batch, clicks)
        return [replace(result, labels=truth.labels) for result, truth in zip(found, truths, strict=True)]

    def _answered(
        self, network: Callable[..., Any], batch: EvaluationBatch, clicks: Sequence[Sequence[Sequence[Click]]]
    ) -> list[Instances]:
        """Clicks of every object of every image, in pixels of the annotation, answered at its size."""
        sizes = [annotation.size for annotation in batch.annotations]
        return self.predict(network, batch.images, sizes, prompts_of(clicks, sizes, batch.images))

    def evaluator(self) -> PromptableEvaluator:
        return PromptableEvaluator(self.labels)


class PromptableEvaluator(ObjectEvaluator[Instances]):
    """The IoU of every object with the mask that its clicks gave; ``object_iou`` is the mean over all objects.

    The confusion matrix counts an object under its class if the IoU is at least 0.5, otherwise under nothing.
    """

    columns: ClassVar[Mapping[str, pa.DataType]] = {"labels": pa.int64(), "iou": pa.float64()}  # of each object

    @property
    def classes(self) -> list[int]:
        return sorted(self.labels.things)

    def scores(self) -> dict[str, float]:
        iou = self._joined("iou")
        mean = float(iou.mean()) if len(iou) else float("nan")
        return {"object_iou": mean, "images": len(self._images), "objects": len(iou)}

    def per_class(self) -> list[dict[str, Any]]:
        labels, iou = self._joined("labels"), self._joined("iou")
        rows = []
        for label in self.classes:
            own = iou[labels == label]
            mean = float(own.mean()) if len(own) else float("nan")
            rows.append({"class": self.labels.classes[label], "objects": len(own), "iou": mean})
        return rows

    def resampled(self, metric: str, weights: NDArray) -> NDArray[np.float64]:
        if metric != "object_iou":
            raise nearest("score of prompted objects", metric, ["object_iou"])
        own = [self._images[name]["iou"] for name in self.ids]
        total = weights @ np.array([iou.sum() for iou in own])
        count = weights @ np.array([len(iou) for iou in own])
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    def figures(self) -> dict[str, Figure]:
        from segmodels import plots

        names, counts = self.confusion()
        by_class = np.full(self.labels.num_classes, np.nan)
        by_class[self.classes] = [row["iou"] for row in self.per_class()]
        mean = self.scores()["object_iou"]
        return {
            "confusion": plots.confusion_matrix(counts, names, "objects"),
            "class_iou": plots.class_bars(by_class, self.labels, "IoU", mean, self.classes),
        }

    def _joined(self, column: str) -> NDArray:
        return np.concatenate([np.zeros(0, np.int64), *(self._images[name][column] for name in self.ids)])

    def _score(self, name: str) -> float:
        iou = self._images[name]["iou"]
        return float(iou.mean()) if len(iou) else float("nan")

    def _count(self, result: Instances, annotation: Annotation) -> tuple[Row, NDArray[np.int64]]:
        truth = InstanceTask(self.labels).truth(annotation)
        if len(result) != len(truth):
            raise InputError(
                f"{len(result)} masks were predicted for {len(truth)} objects, expected one each: prompt every object"
            )
        crowd = np.zeros(len(truth), dtype=bool)
        iou = np.diagonal(mask_iou(result.objects(), truth.objects(), crowd)).astype(np.float64)
        places = np.searchsorted(self.classes, truth.labels).tolist()
        found = np.flatnonzero(iou >= 0.5).tolist()
        pairs = [(place, number) for number, place in enumerate(found)]
        cells = confusion_pairs(places, [places[place] for place in found], pairs, len(self.classes))
        return {"labels": truth.labels, "iou": iou}, cells

"""A mask for every prompt (Segment Anything, Kirillov 2023, 2304.02643), or for everything in an image; for scores,
annotations place the clicks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.annotations import Annotation
from segmodels.checks import check, number, whole_number
from segmodels.data.batches import EvaluationBatch
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.metrics.object_matching import mask_iou
from segmodels.outputs import PromptedOutput
from segmodels.prompts import Prompt, Prompts, corrected, first_click, prompts_of
from segmodels.results import Instances
from segmodels.suggest import nearest
from segmodels.tasks.base import Evaluator, Size
from segmodels.tasks.everything import AT_ONCE, everything
from segmodels.tasks.instance import InstanceTask
from segmodels.tasks.object_evaluator import ObjectEvaluator, Row, confusion_pairs
from segmodels.tasks.registry import register_task
from segmodels.tasks.targets import SegmentTargets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLICKS = (1, 3, 5)
"""After which an object's mask is measured, each click after the first on an error of the mask so far."""

OBJECT = LabelMap(("background", "object"), ((0, 0, 0), (255, 112, 67)), {0: 0, 1: 1}, things=frozenset({1}))
"""What a promptable model, which knows no classes, says of an image."""


@dataclass(frozen=True)
class PromptableSettings:
    """How objects are found where there are no prompts (SAM's everything mode, section 7.3 and appendix B).

    Attributes:
        grid: clicks on each axis of the image, evenly spread.
        quality: smallest estimated IoU of a mask that is kept, 0 to 1.
        stability: smallest IoU of the masks at the thresholds 1 and -1 of the logits, 0 to 1.
        overlap: largest IoU of the boxes of two masks, 0 to 1; above it the one of the lower quality is dropped.
    """

    grid: int = 32
    quality: float = 0.88
    stability: float = 0.95
    overlap: float = 0.7

    def __post_init__(self) -> None:
        share = number(0, 1)
        check(self, grid=whole_number(1, 256), quality=share, stability=share, overlap=share)


@dataclass(frozen=True)
class ClickedInstances(Instances):
    """The objects of an annotation after one click each.

    Attributes:
        later: masks after more clicks, ``CLICKS[1:]``.
    """

    later: tuple[Instances, ...] = field(default=())


@register_task
class PromptableTask(InstanceTask):
    """Promptable segmentation: models take ``Prompts`` as their guide, and know no classes.

    Results have one object per prompted object, in the prompts' order, with the model's estimate of its IoU as score.
    """

    name: ClassVar[str] = "promptable"
    headline: ClassVar[Mapping[str, str]] = {
        "object_iou": "object IoU",
        "object_iou_3": "object IoU after 3 clicks",
        "object_iou_5": "object IoU after 5 clicks",
    }
    class_score: ClassVar[str] = "iou"
    answer: ClassVar[str] = "a mask for each prompted object, or without prompts for each that is found"
    takes_prompts: ClassVar[bool] = True
    Settings: ClassVar[type] = PromptableSettings

    @classmethod
    def model_arguments(cls, labels: LabelMap) -> dict[str, Any]:
        return {"num_classes": 1}

    @property
    def result_labels(self) -> LabelMap:
        return OBJECT

    def targets(self, annotations: Sequence[Annotation]) -> SegmentTargets:
        targets = super().targets(annotations)
        segments = [own._replace(labels=torch.zeros_like(own.labels)) for own in targets.segments]
        return targets._replace(segments=segments)

    def read(self, output: Any, sizes: Sequence[Size]) -> list[Instances]:
        found: list[Instances] = output.objects(sizes)
        return [replace(own, labels=np.ones_like(own.labels), sure=0.0) for own in found]  # each was asked for

    def predict(
        self, network: Callable[..., Any], images: Tensor, sizes: Sequence[Size], guides: Prompts | None = None
    ) -> list[Instances]:
        answer = network(images)
        if guides is None:
            return everything(answer, images, sizes, self.settings)
        return self._answered(answer, guides, sizes)[0]

    def results(self, network: Callable[..., Any], batch: EvaluationBatch) -> list[Instances]:
        """The objects of the annotations, clicked as ``CLICKS`` says; with their true classes."""
        truths = [self.truth(annotation) for annotation in batch.annotations]
        sizes = [annotation.size for annotation in batch.annotations]
        masks = [
            np.stack([t.mask(i) for i in range(len(t))]) if len(t) else np.zeros((0, *t.size), bool) for t in truths
        ]
        answer = network(batch.images)
        prompts = [[Prompt([first_click(mask)]) for mask in own] for own in masks]
        measured: list[list[Instances]] = []
        earlier: tuple[Tensor, ...] | None = None
        for clicks in range(1, max(CLICKS) + 1):
            asked = prompts_of(prompts, sizes, batch.images)._replace(masks=earlier)
            found, earlier = self._answered(answer, asked, sizes)
            if clicks in CLICKS:
                measured.append([replace(own, labels=true.labels) for own, true in zip(found, truths, strict=True)])
            prompts = [
                corrected(own, true, (result.mask(place) for place in range(len(own))))
                for own, true, result in zip(prompts, masks, found, strict=True)
            ]
        return [
            ClickedInstances(
                size=first.size,
                boxes=first.boxes,
                scores=first.scores,
                labels=first.labels,
                masks=first.masks,
                sure=first.sure,
                later=tuple(later),
            )
            for first, *later in zip(*measured, strict=True)
        ]

    def _answered(
        self, answer: Callable[..., PromptedOutput], prompts: Prompts, sizes: Sequence[Size]
    ) -> tuple[list[Instances], tuple[Tensor, ...]]:
        """The objects of each image, and the logits that they were read from; a part of the objects at a time."""
        outputs = [answer(part) for part in _parts(prompts)]
        objects = [_joined(own) for own in zip(*(self.read(output, sizes) for output in outputs), strict=True)]
        logits = zip(*(output.mask_logits for output in outputs), strict=True)
        return objects, tuple(torch.cat(own) for own in logits)

    def evaluator(self) -> Evaluator[Instances]:
        return PromptableEvaluator(self.labels)


def _parts(prompts: Prompts) -> Iterator[Prompts]:
    """At most ``AT_ONCE`` objects of all images, in their order."""
    most = max((len(points) for points in prompts.points), default=0)
    step = max(AT_ONCE // max(len(prompts.points), 1), 1)
    for start in range(0, max(most, 1), step):
        part = slice(start, start + step)
        fields = {name: own and tuple(each[part] for each in own) for name, own in prompts._asdict().items()}
        yield Prompts(**fields)


def _joined(parts: Sequence[Instances]) -> Instances:
    """The objects of all parts, which are of one image."""
    return replace(
        parts[0],
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        masks=tuple(mask for part in parts for mask in part.masks),
    )


SCORES: Mapping[str, str] = {"object_iou": "iou", "object_iou_3": "iou_3", "object_iou_5": "iou_5"}
"""Score -> what it is the mean of, for each of ``CLICKS``."""


class PromptableEvaluator(ObjectEvaluator[Instances]):
    """The IoU of every object with the masks that its clicks gave; ``object_iou`` is the mean over all objects after
    one click, ``object_iou_3`` and ``object_iou_5`` after three and five.

    The confusion matrix counts an object under its class if the IoU after one click is at least 0.5, otherwise under
    nothing.
    """

    columns: ClassVar[Mapping[str, pa.DataType]] = {  # of each object
        "labels": pa.int64(),
        **dict.fromkeys(SCORES.values(), pa.float64()),
    }

    @property
    def classes(self) -> list[int]:
        return sorted(self.labels.things)

    def scores(self) -> dict[str, float]:
        means = {score: _mean(self._joined(column)) for score, column in SCORES.items()}
        return {**means, "images": len(self._images), "objects": len(self._joined("labels"))}

    def per_class(self) -> list[dict[str, Any]]:
        labels = self._joined("labels")
        rows = []
        for label in self.classes:
            own = labels == label
            means = {column: _mean(self._joined(column)[own]) for column in SCORES.values()}
            rows.append({"class": self.labels.classes[label], "objects": int(own.sum()), **means})
        return rows

    def resampled(self, metric: str, weights: NDArray) -> NDArray[np.float64]:
        if metric not in SCORES:
            raise nearest("score of prompted objects", metric, list(SCORES))
        own = [self._images[name][SCORES[metric]] for name in self.ids]
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
        return _mean(self._images[name]["iou"])

    def _count(self, result: Instances, annotation: Annotation) -> tuple[Row, NDArray[np.int64]]:
        truth = InstanceTask(self.labels).truth(annotation)
        if len(result) != len(truth):
            raise InputError(
                f"{len(result)} masks were predicted for {len(truth)} objects, expected one each: prompt every object"
            )
        crowd = np.zeros(len(truth), dtype=bool)
        # a plain result, the truth for instance, is the answer to every number of clicks
        later = result.later if isinstance(result, ClickedInstances) else (result,) * (len(CLICKS) - 1)
        columns = {
            column: np.diagonal(mask_iou(own.objects(), truth.objects(), crowd)).astype(np.float64)
            for column, own in zip(SCORES.values(), (result, *later), strict=True)
        }
        places = np.searchsorted(self.classes, truth.labels).tolist()
        found = np.flatnonzero(columns["iou"] >= 0.5).tolist()
        pairs = [(place, number) for number, place in enumerate(found)]
        cells = confusion_pairs(places, [places[place] for place in found], pairs, len(self.classes))
        return {"labels": truth.labels, **columns}, cells


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else float("nan")

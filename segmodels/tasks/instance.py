"""Objects of countable classes, each with a score and a mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels import run_lengths
from segmodels.annotations import Annotation
from segmodels.inference.object_windows import join_objects
from segmodels.inference.sliding_window import image_rows, require_whole
from segmodels.labels import LabelMap
from segmodels.metrics.object_matching import SURE, UNPAIRED, mask_iou, pair
from segmodels.object_reading import InstanceSettings
from segmodels.object_views import averaged
from segmodels.results import Instances
from segmodels.tasks.base import Evaluator, Size, Task, TensorSpec
from segmodels.tasks.instance_evaluator import InstanceEvaluator, TrueObjects
from segmodels.tasks.object_truth import encoded_masks, segments_of, things_of
from segmodels.tasks.registry import register_task
from segmodels.tasks.targets import SegmentTargets

if TYPE_CHECKING:
    from segmodels.plots import Comparison

Network = Callable[..., Any]  # raw images (B, C, H, W) -> the model's output


@register_task
class InstanceTask(Task[SegmentTargets, Instances]):
    """Instance segmentation. The models' classes are the things alone: labels of targets and outputs are indices among
    the things, in the order of the train ids.
    """

    name: ClassVar[str] = "instance"
    headline: ClassVar[Mapping[str, str]] = {"mask_ap": "AP", "mask_ap50": "AP50", "mask_ap75": "AP75"}
    class_score: ClassVar[str] = "ap"
    answer: ClassVar[str] = "objects with a box, a score, a class and a mask each"
    Settings: ClassVar[type] = InstanceSettings

    def __init__(self, labels: LabelMap, settings: Any = None) -> None:
        super().__init__(labels, settings)
        self.things = np.array(sorted(labels.things), dtype=np.int64)

    @classmethod
    def supports(cls, labels: LabelMap, objects: bool) -> bool:
        return objects and bool(labels.things)

    @classmethod
    def model_arguments(cls, labels: LabelMap) -> dict[str, Any]:
        stuff = labels.num_classes > len(labels.things)
        return {"num_classes": len(labels.things), "semantic_classes": labels.num_classes if stuff else 0}

    def targets(self, annotations: Sequence[Annotation]) -> SegmentTargets:
        segments = []
        for annotation in annotations:
            rows = things_of(annotation, self.labels)
            places = np.searchsorted(self.things, [row.label for row in rows]).tolist()
            masks = annotation.masks(rows)
            # a pixel of an ignored class map may still belong to an object
            valid = (annotation.classes != self.labels.ignore_index) | masks.any(axis=0)
            segments.append(segments_of(masks, places, [row.crowd for row in rows], valid))
        return SegmentTargets(segments, torch.from_numpy(np.stack([annotation.classes for annotation in annotations])))

    def read(self, output: Any, sizes: Sequence[Size]) -> list[Instances]:
        return self._named(output.instances(sizes, self.settings))

    def chosen(self, evaluator: Evaluator) -> Any:
        if not isinstance(evaluator, InstanceEvaluator) or self.settings.sure is not None:
            return self.settings
        threshold = evaluator.threshold()
        return self.settings if math.isnan(threshold) else replace(self.settings, sure=threshold)

    def completed(self, settings: Any) -> Any:
        undecided = isinstance(settings, InstanceSettings) and settings.sure is None
        return replace(settings, sure=self.settings.sure) if undecided else settings

    def predict(
        self, network: Callable[..., Any], images: Tensor, sizes: Sequence[Size], guides: Any = None
    ) -> list[Instances]:
        if guides is not None:
            return self.read(network(images, guide=guides), sizes)
        if self.settings.sliding_window is None:
            return self._seen(network, images, sizes)
        seen = (images.shape[2], images.shape[3])
        return [
            self.predict_large(network, partial(image_rows, image), seen, (size[0], size[1]))
            for image, size in zip(images, sizes, strict=True)
        ]

    def predict_large(
        self, network: Network, read: Callable[[int, int], Tensor], seen: tuple[int, int], size: tuple[int, int]
    ) -> Instances:
        """The objects of an image that may be larger than memory.

        With a sliding window, memory holds one strip of the image, as high as the window, and the masks, run-length
        encoded. Masks are found at the size ``seen`` and enlarged from there.

        Arguments and errors as of ``SemanticTask.predict_rows``.
        """
        if self.settings.sliding_window is None:
            require_whole(seen, size)
            (found,) = self._seen(network, read(0, seen[0])[None], [seen])
            return found.resized(size)
        return self._joined(network, read, seen).resized(size)

    def evaluator(self) -> Evaluator[Instances]:
        return InstanceEvaluator(self.labels)

    def truth(self, annotation: Annotation) -> Instances:
        objects = [row for row in things_of(annotation, self.labels) if not row.crowd]
        size = (annotation.size[0], annotation.size[1])
        masks, labels = encoded_masks(annotation, objects), np.array([row.label for row in objects], dtype=np.int64)
        scores = np.ones(len(objects), dtype=np.float32)
        return Instances(size, run_lengths.boxes(masks, size), scores, labels, tuple(masks))

    def compare(self, image: NDArray, annotation: Annotation, result: Instances, caption: str) -> Comparison:
        from segmodels.object_pictures import compare_objects, drawing_size, enlarged
        from segmodels.plots import resize_image

        truth, true = self.truth(annotation), TrueObjects(annotation, self.labels)
        iou = mask_iou(result.objects(), run_lengths.objects(true.masks, truth.size), true.crowd)
        iou = np.where(result.labels[:, None] == true.labels, iou, 0.0)[result.scores >= result.sure]
        sure = np.flatnonzero(result.scores >= result.sure)
        pairs = pair(iou, result.scores[sure], true.crowd)
        outcomes = [
            (run_lengths.crop(mask, truth.size), "found" if place in pairs else "missed")
            for place, mask in enumerate(true.masks)
            if not true.crowd[place]
        ]
        outcomes += [(result.crop(int(d)), "wrong") for d, place in zip(sure, pairs, strict=True) if place == UNPAIRED]
        image = resize_image(image, truth.size)
        size, zoom = drawing_size(truth.size)
        shown = enlarged(image, size)
        drawn = (
            truth.resized(size).draw(shown, self.labels, zoom=zoom, scores=False),
            result.resized(size).draw(shown, self.labels, zoom=zoom),
        )
        classes = [*truth.labels.tolist(), *result.labels[sure].tolist()]
        return compare_objects(image, *drawn, outcomes, classes, self.labels, caption)

    def tensor_specs(self, spatial_dims: int) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("boxes", "FP32", (-1, 4)),
            TensorSpec("scores", "FP32", (-1,)),
            TensorSpec("labels", "INT32", (-1,)),
            TensorSpec("image", "INT32", (-1,)),
            TensorSpec("masks", "BYTES", (-1,)),
        )

    def tensors(self, results: Sequence[Instances]) -> dict[str, NDArray]:
        """The objects of all images in one list; ``image`` is the index of each object's image, ``masks`` are COCO's
        run-length encoding as JSON.
        """
        counts = [len(result) for result in results]
        masks = [mask.encode() for result in results for mask in result.written_masks()]
        column = np.empty(len(masks), dtype=object)
        column[:] = masks
        return {
            "boxes": np.concatenate([result.boxes for result in results]).astype(np.float32),
            "scores": np.concatenate([result.scores for result in results]).astype(np.float32),
            "labels": np.concatenate([result.labels for result in results]).astype(np.int32),
            "image": np.repeat(np.arange(len(results), dtype=np.int32), counts),
            "masks": column,
        }

    def _joined(self, network: Network, read: Callable[[int, int], Tensor], size: tuple[int, int]) -> Instances:
        """The objects of an image that windows see, at its own size."""
        window = self.settings.sliding_window
        found = join_objects(lambda batch: self._seen(network, batch, [window.size] * len(batch)), read, size, window)
        return replace(found, sure=self._sure)

    def _seen(self, network: Network, images: Tensor, sizes: Sequence[Size]) -> list[Instances]:
        """The objects of whole images, as ``flip`` says."""
        output = network(images)
        if not self.settings.flip:
            return self.read(output, sizes)
        turned = network(images.float().flip(-1)).mirrored()  # torch turns no uint16 about
        views = zip(output.views(sizes, self.settings), turned.views(sizes, self.settings), strict=True)
        return self._named([averaged(both, self.settings.score or 0.0) for both in views])

    def _named(self, found: Sequence[Instances]) -> list[Instances]:
        """With train ids, of places among the things."""
        return [replace(objects, labels=self.things[objects.labels], sure=self._sure) for objects in found]

    @property
    def _sure(self) -> float:
        return SURE if self.settings.sure is None else self.settings.sure

"""A segment for every pixel: objects of things, and one region for each class of stuff (Kirillov 2019, 1801.00868)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.annotations import Annotation
from segmodels.errors import InputError
from segmodels.inference.object_windows import join_segments
from segmodels.inference.sliding_window import image_rows, require_whole
from segmodels.labels import LabelMap
from segmodels.metrics.panoptic import match_segments
from segmodels.object_reading import PanopticSettings
from segmodels.results import PanopticMap
from segmodels.run_lengths import cropped
from segmodels.tasks.base import Size, Task, TensorSpec
from segmodels.tasks.object_truth import panoptic_map, segments_of
from segmodels.tasks.panoptic_evaluator import PanopticEvaluator
from segmodels.tasks.registry import register_task
from segmodels.tasks.targets import SegmentTargets

if TYPE_CHECKING:
    from segmodels.plots import Comparison


@register_task
class PanopticTask(Task[SegmentTargets, PanopticMap]):
    """Panoptic segmentation. Labels of the targets' segments are train ids."""

    name: ClassVar[str] = "panoptic"
    headline: ClassVar[Mapping[str, str]] = {"pq": "PQ", "rq": "RQ", "sq": "SQ"}
    class_score: ClassVar[str] = "pq"
    answer: ClassVar[str] = "one segment id per pixel, and the class of each segment"
    Settings: ClassVar[type] = PanopticSettings
    settings: PanopticSettings

    @classmethod
    def supports(cls, labels: LabelMap, objects: bool) -> bool:
        return objects and bool(labels.things)

    @classmethod
    def model_arguments(cls, labels: LabelMap) -> dict[str, Any]:
        return {"num_classes": labels.num_classes, "things": tuple(sorted(labels.things))}

    def targets(self, annotations: Sequence[Annotation]) -> SegmentTargets:
        segments = []
        for annotation in annotations:
            truth = panoptic_map(annotation, self.labels)
            rows = truth.segments
            masks = truth.ids == np.array([row.id for row in rows], dtype=np.int32)[:, None, None]
            segments.append(segments_of(masks, [row.label for row in rows], [row.crowd for row in rows], truth.ids > 0))
        return SegmentTargets(segments, torch.from_numpy(np.stack([annotation.classes for annotation in annotations])))

    def read(self, output: Any, sizes: Sequence[Size]) -> list[PanopticMap]:
        maps: list[PanopticMap] = output.panoptic(sizes, self.labels, self.settings)
        return maps

    def predict(
        self, network: Callable[..., Any], images: Tensor, sizes: Sequence[Size], guides: Any = None
    ) -> list[PanopticMap]:
        if self.settings.sliding_window is None:
            return self.read(network(images) if guides is None else network(images, guide=guides), sizes)
        seen = (images.shape[2], images.shape[3])
        return [
            self.predict_large(network, partial(image_rows, image), seen, (size[0], size[1]))
            for image, size in zip(images, sizes, strict=True)
        ]

    def predict_large(
        self,
        network: Callable[..., Any],
        read: Callable[[int, int], Tensor],
        seen: tuple[int, int],
        size: tuple[int, int],
    ) -> PanopticMap:
        """The map of an image that may be too large to predict at once. With a sliding window, memory holds one strip
        of the image, as high as the window, and the whole map, 8 bytes per pixel.

        Arguments and errors as of ``SemanticTask.predict_rows``.
        """
        if self.settings.sliding_window is None:
            require_whole(seen, size)
            (found,) = self.read(network(read(0, seen[0])[None]), [seen])
            return found.resized(size)
        return self._joined(network, read, seen).resized(size)

    def evaluator(self) -> PanopticEvaluator:
        return PanopticEvaluator(self.labels)

    def truth(self, annotation: Annotation) -> PanopticMap:
        return panoptic_map(annotation, self.labels)

    def compare(self, image: NDArray, annotation: Annotation, result: PanopticMap, caption: str) -> Comparison:
        from segmodels.object_pictures import compare_objects, drawing_size, enlarged
        from segmodels.plots import resize_image

        truth = self.truth(annotation)
        pairs = match_segments(result.ids, result.segments, truth.ids, truth.segments)
        true_ids, ids = [s.id for s in truth.segments], [s.id for s in result.segments]
        outcomes = [(cropped(truth.ids == true_ids[row]), "found") for row in pairs.true]
        outcomes += [(cropped(truth.ids == true_ids[row]), "missed") for row in pairs.unmatched_true]
        outcomes += [(cropped(result.ids == ids[row]), "wrong") for row in pairs.unmatched_predicted]
        image = resize_image(image, truth.ids.shape)
        size, zoom = drawing_size((truth.ids.shape[0], truth.ids.shape[1]))
        shown = enlarged(image, size)
        drawn = (
            truth.resized(size).draw(shown, self.labels, zoom=zoom),
            result.resized(size).draw(shown, self.labels, zoom=zoom),
        )
        classes = [segment.label for segment in (*truth.segments, *result.segments)]
        return compare_objects(image, *drawn, outcomes, classes, self.labels, caption)

    def tensor_specs(self, spatial_dims: int) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("ids", "INT32", (-1,) * (1 + spatial_dims)),
            TensorSpec("segments", "INT32", (-1,)),
            TensorSpec("labels", "INT32", (-1,)),
            TensorSpec("image", "INT32", (-1,)),
        )

    def tensors(self, results: Sequence[PanopticMap]) -> dict[str, NDArray]:
        """``ids`` is the id of each pixel's segment, 0 without one; the others are each segment's id, its class, and
        the index of its image.
        """
        sizes = {result.ids.shape for result in results}
        if len(sizes) > 1:
            raise InputError(f"images have the sizes {sorted(sizes)}, expected one size for one tensor of ids")
        rows = [(s.id, s.label, place) for place, result in enumerate(results) for s in result.segments]
        columns = np.array(rows, dtype=np.int32).reshape(-1, 3).T
        return {
            "ids": np.stack([result.ids for result in results]).astype(np.int32),
            "segments": columns[0],
            "labels": columns[1],
            "image": columns[2],
        }

    def _joined(
        self, network: Callable[..., Any], read: Callable[[int, int], Tensor], size: tuple[int, int]
    ) -> PanopticMap:
        """The map of an image that windows see, at its own size."""
        window = self.settings.sliding_window
        assert window is not None
        whole = replace(self.settings, stuff_area=0)  # a region may extend into the next window

        def maps(batch: Tensor) -> list[PanopticMap]:
            found: list[PanopticMap] = network(batch).panoptic([window.size] * len(batch), self.labels, whole)
            return found

        found = join_segments(maps, read, size, window, self.labels)
        return found.without_small_stuff(self.labels.things, self.settings.stuff_area)

"""Results of predicting one image: class maps, objects, panoptic maps. Each writes its own files and draws itself."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmodels import run_lengths
from segmodels.annotations import MOST_SEGMENTS, Annotation, Segment, pack_layers, resize_map, rows_of
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.metrics.object_matching import SURE
from segmodels.run_lengths import Crop


class Region(NamedTuple):
    """The pixels of one class, object or segment of an image; its score where it has one."""

    label: int
    mask: NDArray[np.bool_]
    score: float | None = None


@dataclass(frozen=True)
class ClassMap:
    """A class for every pixel.

    Attributes:
        map: train ids ``(*spatial)``: numpy, or a tensor on the device, which is fetched when ``classes`` is read.
    """

    map: Any

    @cached_property
    def classes(self) -> NDArray:
        """Train ids in main memory."""
        return self.map if isinstance(self.map, np.ndarray) else self.map.cpu().numpy()

    def files(self, labels: LabelMap) -> dict[str, bytes]:
        """A PNG of train ids with the classes' colours as palette; 16-bit grey above 255 classes."""
        from PIL import Image

        if labels.dtype == np.uint8:
            picture = Image.fromarray(self.classes.astype(np.uint8, copy=False))
            picture.putpalette(np.array(labels.palette, dtype=np.uint8).tobytes())
        else:
            picture = Image.fromarray(self.classes.astype(np.uint16))
        data = io.BytesIO()
        picture.save(data, "PNG")
        return {".png": data.getvalue()}

    def shares(self, labels: LabelMap) -> NDArray[np.float64]:
        """Share of the pixels that each class has, ``(C,)``."""
        counts = np.bincount(self.classes.reshape(-1), minlength=labels.num_classes)
        return counts[: labels.num_classes] / max(self.classes.size, 1)

    def regions(self) -> list[Region]:
        """A region for each class that occurs."""
        return [Region(label, self.classes == label) for label in np.unique(self.classes).tolist()]

    def annotation(self, labels: LabelMap) -> Annotation:
        """As an annotation that a person corrects."""
        return Annotation.of_classes(self.classes.astype(labels.dtype))

    def draw(self, image: NDArray, labels: LabelMap, alpha: float = 0.6) -> NDArray:
        """Draw the classes' colours over an image ``(*spatial, C)`` of any type, of a volume over the slice with most
        labelled pixels; RGB uint8 ``(H, W, 3)``. ``alpha`` is the opacity of the colours.
        """
        from segmodels import plots
        from segmodels.data.preview import flat

        shown, classes = flat(image, self.classes, ignore_index=labels.ignore_index)
        return plots.blend(shown, classes, labels, alpha)


@dataclass(frozen=True)
class Instances:
    """N objects of an image, each with a score and a mask of its own; masks may overlap.

    Attributes:
        size: height and width of the image.
        boxes: float32 ``(N, 4)``: left, top, right, bottom in pixels, right and bottom exclusive.
        scores: float32 ``(N,)``, 0..1.
        labels: int64 ``(N,)`` train ids.
        masks: compressed counts of COCO's run-length encoding, N.
        sure: score from which an object is drawn, proposed as an annotation and enters a confusion matrix.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[bytes, ...]
    sure: float = SURE

    @classmethod
    def of_masks(cls, masks: NDArray[np.bool_], scores: ArrayLike, labels: ArrayLike) -> Instances:
        """Objects of masks ``(N, H, W)``, with the boxes around them."""
        size, counts = (masks.shape[1], masks.shape[2]), run_lengths.encode(masks)
        return cls(
            size,
            run_lengths.boxes(counts, size),
            np.asarray(scores, dtype=np.float32),
            np.asarray(labels, dtype=np.int64),
            tuple(counts),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """The mask of one object, ``(H, W)``."""
        return run_lengths.decode(self.masks[number : number + 1], self.size)[0]

    def crop(self, number: int) -> Crop:
        """The mask of one object within its box."""
        return run_lengths.crop(self.masks[number], self.size)

    def resized(self, size: tuple[int, int]) -> Instances:
        """At another size: every pixel takes the value under its centre. Objects without a pixel are left out."""
        if size == self.size:
            return self
        resized = [run_lengths.resized(self.crop(number), self.size, size) for number in range(len(self))]
        kept = [number for number, crop in enumerate(resized) if crop.pixels.any()]
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0]] * 2)
        return replace(
            self,
            size=size,
            boxes=(self.boxes[kept] * scale).astype(np.float32),
            scores=self.scores[kept],
            labels=self.labels[kept],
            masks=tuple(run_lengths.placed(resized[number], size) for number in kept),
        )

    def as_stored(self, orientation: int | None) -> Instances:
        """Over the pixels of the image's file as stored, where an EXIF orientation has turned the image; None changes
        nothing.
        """
        if orientation is None:
            return self
        from segmodels.data.decoding import SIDEWAYS
        from segmodels.data.geometry import as_stored, boxes_as_stored

        size = (self.size[1], self.size[0]) if orientation in SIDEWAYS else self.size
        masks = []
        for number in range(len(self)):
            left, top, pixels = self.crop(number)
            box = np.array([[left, top, left + pixels.shape[1], top + pixels.shape[0]]])
            ((left, top, *_),) = boxes_as_stored(box, self.size, orientation).tolist()
            masks.append(run_lengths.placed(Crop(left, top, as_stored(pixels, orientation)), size))
        return replace(self, size=size, boxes=boxes_as_stored(self.boxes, self.size, orientation), masks=tuple(masks))

    def objects(self) -> list[dict[str, Any]]:
        """Masks as pycocotools takes them: ``{"size": [H, W], "counts": bytes}`` each."""
        return run_lengths.objects(self.masks, self.size)

    def written_masks(self) -> list[str]:
        """Masks as JSON: ``{"size": [H, W], "counts": "..."}`` each."""
        height, width = self.size
        return [json.dumps({"size": [height, width], "counts": mask.decode("ascii")}) for mask in self.masks]

    def files(self, labels: LabelMap) -> dict[str, bytes]:
        """JSON: a list of objects as COCO's results have them, with the class beside its train id."""
        rows = [
            {
                "category_id": int(label),
                "class": labels.classes[label],
                "score": float(score),
                "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                "segmentation": json.loads(mask),
            }
            for label, score, (left, top, right, bottom), mask in zip(
                self.labels, self.scores, self.boxes, self.written_masks(), strict=True
            )
        ]
        return {".json": json.dumps(rows).encode()}

    def annotation(self, labels: LabelMap) -> Annotation:
        """As an annotation that a person corrects, without objects whose score is below ``sure``. In the class map
        better objects hide worse ones; pixels without one have the first class of stuff, or are ignored where there is
        none.
        """
        stuff = [label for label in range(labels.num_classes) if label not in labels.things]
        classes = np.full(self.size, stuff[0] if stuff else labels.ignore_index, labels.dtype)
        worst_first = self._sure_objects()
        for number in worst_first:
            classes[self.mask(number)] = self.labels[number]
        best_first = worst_first[::-1]
        layers = pack_layers([self.mask(number) for number in best_first], self.size)
        rows = [Segment(number, label) for number, label in enumerate(self.labels[best_first].tolist(), start=1)]
        return Annotation(classes, layers, rows_of(layers, rows))

    def shares(self, labels: LabelMap) -> NDArray[np.float64]:
        """Share of the image that the objects of each class with a score of at least ``sure`` cover, ``(C,)``; where
        objects overlap, a pixel counts for each.
        """
        areas = np.where(self.scores >= self.sure, run_lengths.areas(self.masks, self.size), 0.0)
        return np.bincount(self.labels, areas, labels.num_classes)[: labels.num_classes] / max(math.prod(self.size), 1)

    def regions(self) -> list[Region]:
        """A region for each object with a score of at least ``sure``."""
        numbers = np.sort(self._sure_objects())
        return [Region(int(self.labels[i]), self.mask(i), float(self.scores[i])) for i in numbers]

    def draw(
        self, image: NDArray, labels: LabelMap, alpha: float = 0.6, zoom: float = 1.0, scores: bool = True
    ) -> NDArray:
        """The masks in their classes' colours over the image ``(H, W, 3)`` uint8 RGB, best last, each with an outline,
        and its number among the objects, from 1, its class and score beside it; objects with a score below ``sure`` are
        left out.

        Args:
            alpha: opacity of the colours.
            zoom: how many times smaller the picture will be shown.
            scores: whether captions have them.
        """
        from segmodels.object_pictures import draw_masks

        order = self._sure_objects()
        masks = [self.crop(i) for i in order]
        colors = [labels.palette[self.labels[i]] for i in order]
        captions = [
            f"{i + 1}: {labels.classes[self.labels[i]]}" + (f", {self.scores[i]:.2f}" if scores else "") for i in order
        ]
        return draw_masks(image, masks, colors, alpha, captions, zoom)

    def _sure_objects(self) -> NDArray[np.int64]:
        """Numbers of the objects with a score of at least ``sure``, the best one last."""
        order = np.argsort(self.scores, kind="stable")
        return np.asarray(order[self.scores[order] >= self.sure])


@dataclass(frozen=True)
class PanopticMap:
    """A segment for every pixel, or none: objects of things, and one region for each class of stuff.

    Attributes:
        ids: segment ids ``(*spatial)``, 0 where there is no segment.
        segments: a row per id.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]

    def classes(self, labels: LabelMap) -> NDArray:
        """Train ids ``(*spatial)``, ignored where there is no segment."""
        table = np.full(max((segment.id for segment in self.segments), default=0) + 1, labels.ignore_index, np.int64)
        for segment in self.segments:
            table[segment.id] = segment.label
        return table[self.ids].astype(labels.dtype)

    def resized(self, size: tuple[int, int]) -> PanopticMap:
        """At another size: every pixel takes the value under its centre. Segments without a pixel are left out."""
        if size == self.ids.shape:
            return self
        ids = resize_map(self.ids, size)
        seen = set(np.unique(ids).tolist())
        return PanopticMap(ids, tuple(segment for segment in self.segments if segment.id in seen))

    def as_stored(self, orientation: int | None) -> PanopticMap:
        """Over the pixels of the image's file as stored, where an EXIF orientation has turned the image; None changes
        nothing.
        """
        from segmodels.data.geometry import as_stored

        return replace(self, ids=as_stored(self.ids, orientation))

    def without_small_stuff(self, things: Collection[int], least: int) -> PanopticMap:
        """Without regions of other classes than ``things`` that have fewer than ``least`` pixels."""
        if not least:
            return self
        areas = np.bincount(self.ids.ravel())
        small = [segment.id for segment in self.segments if segment.label not in things and areas[segment.id] < least]
        ids = np.where(np.isin(self.ids, small), 0, self.ids).astype(self.ids.dtype)
        return PanopticMap(ids, tuple(segment for segment in self.segments if segment.id not in small))

    def annotation(self, labels: LabelMap) -> Annotation:
        """As an annotation that a person corrects; objects are those of things."""
        things = [segment for segment in self.segments if segment.label in labels.things]
        layer = np.where(np.isin(self.ids, [segment.id for segment in things]), self.ids, 0).astype(np.uint16)
        layers = layer[None][: len(things)]
        return Annotation(self.classes(labels), layers, rows_of(layers, things))

    def files(self, labels: LabelMap) -> dict[str, bytes]:
        """A 16-bit PNG of ids, and JSON: a list of ``{"id", "class", "thing", "area"}``.

        Raises:
            InputError: an id above 65,535.
        """
        from PIL import Image

        if (highest := max((segment.id for segment in self.segments), default=0)) > MOST_SEGMENTS:
            raise InputError(
                f"a panoptic map has the id {highest}, expected at most {MOST_SEGMENTS} for a 16-bit PNG: number its"
                " segments from 1"
            )
        data = io.BytesIO()
        Image.fromarray(self.ids.astype(np.uint16)).save(data, "PNG")
        ids, areas = np.unique(self.ids, return_counts=True)
        area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        rows = [
            {
                "id": segment.id,
                "class": labels.classes[segment.label],
                "thing": segment.label in labels.things,
                "area": area.get(segment.id, 0),
            }
            for segment in self.segments
        ]
        return {".png": data.getvalue(), ".json": json.dumps(rows).encode()}

    def shares(self, labels: LabelMap) -> NDArray[np.float64]:
        """Share of the pixels that the segments of each class have, ``(C,)``."""
        return ClassMap(self.classes(labels)).shares(labels)

    def regions(self) -> list[Region]:
        """A region for each segment."""
        return [Region(segment.label, self.ids == segment.id) for segment in self.segments]

    def draw(self, image: NDArray, labels: LabelMap, alpha: float = 0.6, zoom: float = 1.0) -> NDArray:
        """The classes' colours over the image ``(H, W, 3)`` uint8 RGB, things with an outline, their id and class.

        Args:
            alpha: opacity of the colours.
            zoom: how many times smaller the picture will be shown.
        """
        from segmodels import plots
        from segmodels.object_pictures import draw_masks

        things = [segment for segment in self.segments if segment.label in labels.things]
        masks = [run_lengths.cropped(self.ids == segment.id) for segment in things]
        colors = [labels.palette[segment.label] for segment in things]
        captions = [f"{segment.id}: {labels.classes[segment.label]}" + ", crowd" * segment.crowd for segment in things]
        return draw_masks(plots.blend(image, self.classes(labels), labels, alpha), masks, colors, 0.0, captions, zoom)

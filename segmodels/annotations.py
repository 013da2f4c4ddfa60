"""Annotations of an image: class maps, objects, an image label, the spacing of its pixels.

Per-pixel data is a map, all other data a row. Resizing, cropping and flipping work on a stack of maps, whatever the
maps mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

MOST_SEGMENTS = 65535
"""Ids of segments are uint16 above 0."""


class Segment(NamedTuple):
    """One object, or one region of a panoptic map.

    ``id`` is its value in a layer of ``Annotation.layers``, ``label`` its class (train id). ``crowd`` marks a group of
    objects that the dataset does not tell apart. ``box`` and ``area`` (pixels) are as the dataset states them; None
    where they follow from the map.
    """

    id: int
    label: int
    crowd: bool = False
    box: Box | None = None
    area: float | None = None


@dataclass(frozen=True)
class Annotation:
    """Labels of one image or volume; ``*spatial`` is ``H, W`` or ``D, H, W``.

    Attributes:
        classes: train ids ``(*spatial)`` in ``LabelMap.dtype``.
        layers: segment ids ``(L, *spatial)`` uint16, 0 where there is none. L is 0 without objects, 1 where no two
            objects overlap, more where they do.
        segments: a row per id in ``layers``, in any order.
        further: name -> class map ``(*spatial)`` with a label map of its own (part, material, texture).
        image_label: class of the whole image, None where the dataset has none.
        spacing: millimetres between neighbours along each spatial axis, None for photographs.
        empty: number of objects that the dataset lists for the image without a pixel (PASCAL VOC: without a pixel of a
            class); they have no segment.
    """

    classes: NDArray
    layers: NDArray[np.uint16]
    segments: tuple[Segment, ...] = ()
    further: Mapping[str, NDArray] = field(default_factory=dict)
    image_label: int | None = None
    spacing: tuple[float, ...] | None = None
    empty: int = 0

    @classmethod
    def of_classes(cls, classes: NDArray, image_label: int | None = None) -> Annotation:
        """An annotation without objects."""
        return cls(classes, np.zeros((0, *classes.shape), np.uint16), image_label=image_label)

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the maps: ``(H, W)`` or ``(D, H, W)``."""
        return self.classes.shape

    def changed(self, change: Callable[[NDArray], NDArray], spacing: tuple[float, ...] | None = None) -> Annotation:
        """The annotation after the same change of every map; rows follow the maps.

        Args:
            change: a map ``(*spatial)`` -> the changed map; all of one new size. May be a view, is not written to.
            spacing: of the changed maps; None keeps the one there is.
        """
        layers = [change(layer) for layer in self.layers]
        classes = change(self.classes)
        return replace(
            self,
            classes=classes,
            layers=np.stack(layers) if layers else np.zeros((0, *classes.shape), np.uint16),
            segments=rows_of(layers, self.segments),
            further={name: change(map) for name, map in self.further.items()},
            spacing=self.spacing if spacing is None else spacing,
        )

    def resized(self, size: Sequence[int]) -> Annotation:
        """At another size ``(*spatial)``: every pixel takes the label at its centre. The spacing follows."""
        if tuple(size) == self.size:
            return self
        spacing = self.spacing and tuple(
            mm * old / new for mm, old, new in zip(self.spacing, self.size, size, strict=True)
        )
        return self.changed(lambda map: resize_map(map, size), spacing)

    def cropped(self, window: tuple[slice, ...]) -> Annotation:
        """The part in ``window``, a slice for each spatial axis."""
        return self.changed(lambda map: map[window])

    def flipped(self, *axes: int) -> Annotation:
        """Mirrored along spatial axes: the last, -1, is left to right."""
        return self.changed(lambda map: np.flip(map, axes))

    def masks(self, segments: Sequence[Segment] | None = None) -> NDArray[np.bool_]:
        """Pixels of segments (default: all, in their order), ``(K, *spatial)``."""
        chosen = self.segments if segments is None else segments
        masks = np.zeros((len(chosen), *self.size), dtype=bool)
        for mask, segment in zip(masks, chosen, strict=True):
            for layer in self.layers:
                mask |= layer == segment.id
        return masks


def resize_map(map: NDArray, size: Sequence[int]) -> NDArray:
    """A map ``(*spatial)`` at another size: every pixel takes the value under its centre."""
    if map.ndim == 2:
        return cv2.resize(np.ascontiguousarray(map), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    places = [((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(map.shape, size, strict=True)]
    return map[np.ix_(*places)]


def rows_of(layers: Iterable[NDArray], segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Those segments that have a pixel in ``layers`` (each ``(*spatial)``), with box and area from there.

    Boxes are of images alone: None in volumes.
    """
    if not segments:
        return ()
    import scipy.ndimage

    boxes: dict[int, Box | None] = {}
    areas: dict[int, float] = {}
    for layer in layers:
        for id, window in enumerate(scipy.ndimage.find_objects(layer), start=1):
            if window is not None:
                areas[id] = float(np.count_nonzero(layer[window] == id))
                boxes[id] = _box(window)
    return tuple(
        segment._replace(box=boxes[segment.id], area=areas[segment.id]) for segment in segments if segment.id in areas
    )


def pack_layers(masks: Sequence[NDArray[np.bool_]], size: Sequence[int]) -> NDArray[np.uint16]:
    """Binary masks ``(*spatial)``, which may overlap, as layers of ids ``(L, *spatial)``: mask ``k`` gets id ``k + 1``.

    Each mask lies whole in the first layer where it overlaps no other; as many layers as that takes.

    Args:
        size: ``(*spatial)`` of every mask.

    Raises:
        InputError: more masks than there are ids, or a mask of another size.
    """
    if len(masks) > MOST_SEGMENTS:
        raise InputError(f"an image has {len(masks)} objects, expected at most {MOST_SEGMENTS}: leave some out")
    layers: list[NDArray[np.uint16]] = []
    for number, mask in enumerate(masks, start=1):
        if mask.shape != tuple(size):
            raise InputError(f"mask {number} has the size {mask.shape}, expected {tuple(size)}: correct the mask")
        layer = next((layer for layer in layers if not layer[mask].any()), None)
        if layer is None:
            layer = np.zeros(tuple(size), np.uint16)
            layers.append(layer)
        layer[mask] = number
    return np.stack(layers) if layers else np.zeros((0, *size), np.uint16)


def _box(window: tuple[slice, ...]) -> Box | None:
    if len(window) != 2:
        return None
    rows, columns = window
    return float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)

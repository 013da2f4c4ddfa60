"""What a dataset knows about an image: class maps, objects, an image label, the spacing of its pixels.

Whatever is per pixel is a map, whatever is not is a row; resizing, cropping and flipping work on a stack of maps and
never learn what a map means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


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
    """

    classes: NDArray
    layers: NDArray[np.uint16]
    segments: tuple[Segment, ...] = ()
    further: Mapping[str, NDArray] = field(default_factory=dict)
    image_label: int | None = None
    spacing: tuple[float, ...] | None = None

    @classmethod
    def of_classes(cls, classes: NDArray, image_label: int | None = None) -> Annotation:
        """An annotation without objects."""
        return cls(classes, np.zeros((0, *classes.shape), np.uint16), image_label=image_label)

    @property
    def size(self) -> tuple[int, ...]:
        """Of the maps: ``(H, W)`` or ``(D, H, W)``."""
        return self.classes.shape

"""Volumes read slice by slice: each slice along the first axis is a sample, its case the group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.layouts.base import Layout, Sample
from segmodels.data.nifti import volume_depth
from segmodels.labels import LabelMap


class Slices(Layout):
    """The slices of another layout's volumes. The sample id is the case's and the number of the slice.

    Attributes:
        volumes: the other layout.
    """

    automatic = False
    volumes: ClassVar[type[Layout]]

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._layout = self.volumes(root)
        self._read: tuple[str, NDArray, Annotation | None] | None = None  # the case read last

    @property
    def labels(self) -> LabelMap:
        return self._layout.labels

    def samples(self) -> Iterable[Sample]:
        for case in self._layout.samples():
            for number in range(volume_depth(self.root / case.image)):
                yield replace(case, id=f"{case.id}/{number:03}")
        self.left_out = self._layout.left_out

    def read_image(self, sample: Sample) -> NDArray:
        return slice_of(self._case(sample)[0], _number(sample), self.neighbours)

    def annotation(self, sample: Sample) -> Annotation | None:
        whole, number = self._case(sample)[1], _number(sample)
        if whole is None:
            return None
        spacing = whole.spacing and whole.spacing[1:]
        return replace(Annotation.of_classes(whole.classes[number], sample.image_label), spacing=spacing)

    def _case(self, sample: Sample) -> tuple[NDArray, Annotation | None]:
        """Image and annotation of the whole case; slices come case by case, so one is kept."""
        name = sample.id.rpartition("/")[0]
        if self._read is None or self._read[0] != name:
            case = replace(sample, id=name)
            self._read = name, self._layout.read_image(case), self._layout.annotation(case)
        return self._read[1], self._read[2]


def slice_of(volume: NDArray, number: int, neighbours: int) -> NDArray:
    """A slice ``(H, W, C * (2 * neighbours + 1))`` of a volume ``(D, H, W, C)``: its channels, and those of the slices
    on each side, the lowest slice first; beyond the ends of the volume its last slice is repeated.
    """
    places = np.clip(range(number - neighbours, number + neighbours + 1), 0, len(volume) - 1)
    return np.concatenate([volume[place] for place in places], axis=-1)


def _number(sample: Sample) -> int:
    return int(sample.id.rpartition("/")[2])

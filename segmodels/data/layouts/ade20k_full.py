"""The full ADE20K (Zhou, CVPR 2017; release ADE20K_2016_07_26): every object with its class, and their parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import read_pixels
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.id_maps import one_layer
from segmodels.data.layouts.pairing import published_split
from segmodels.data.layouts.published import Published
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

SEGMENTS, PARTS, ROWS = "_seg", "_parts_1", "_atr.txt"
PART = "part"
"""Name of the further map."""

Rows = dict[int, dict[int, str]]
"""Level (0 objects, 1 their parts) -> number in the image -> class."""


@register_layout(
    "ade20k_full",
    LayoutCard(
        "ADE20K with all classes, objects and parts",
        "https://groups.csail.mit.edu/vision/datasets/ADE20K/",
        "train 20210, val 2000",
        "non-commercial research and education",
        "register at https://groups.csail.mit.edu/vision/datasets/ADE20K/ and unpack ADE20K_2016_07_26.zip",
    ),
)
class Ade20kFull(Published):
    """The full ADE20K. Classes are all names of objects in the tables ``*_atr.txt``, in alphabetical order; other
    pixels count nowhere. Every object of ``*_seg.png`` is a segment. With ``*_parts_1.png`` the parts of objects are a
    further map, ``part``.
    """

    places = ("", "ADE20K_2016_07_26/")
    marks = "pictures beside *_seg.png and *_atr.txt, below training/ and validation/ (ADE20K_2016_07_26)"
    tree: ClassVar[str] = """\
images/training/a/abbey/ADE_train_00000970.jpg             likewise validation/
images/training/a/abbey/ADE_train_00000970_seg.png         RGB: class R / 10 * 256 + G, number of the object B
images/training/a/abbey/ADE_train_00000970_parts_1.png     optional: the same for parts of objects
images/training/a/abbey/ADE_train_00000970_atr.txt         number # level # occluded # class # raw name # "attributes"
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        for home in (folder / "images", folder):
            for split in ("training", "validation"):
                tables = (path for place in ("*", "*/*") for path in (home / split).glob(f"{place}/*{ROWS}"))
                if next(tables, None) is not None:
                    return True
        return False

    @classmethod
    def published(cls) -> LabelMap | None:
        return None

    @cached_property
    def labels(self) -> LabelMap:
        names: dict[int, set[str]] = {0: set(), 1: set()}
        for sample in self.samples():
            for level, rows in self._table(sample).items():
                if level in names:
                    names[level].update(rows.values())
        further = {PART: _label_map(names[1])} if len(names[1]) > 1 else {}
        labels = _label_map(names[0])
        return replace(labels, things=frozenset(range(labels.num_classes)), further=further)

    def samples(self) -> Iterable[Sample]:
        files = self.files("")
        masks = {name.removesuffix(SEGMENTS): file for name, file in files.items() if name.endswith(SEGMENTS)}
        parts = {name.removesuffix(PARTS): file for name, file in files.items() if name.endswith(PARTS)}
        images = {name: file for name, file in files.items() if name in masks or file.endswith(".jpg")}
        for name, image, mask in self.paired(images, masks):
            path = PurePosixPath(name)
            split = next((own for part in path.parts[:-1] if (own := published_split(part))), None)
            further = (parts[name],) if name in parts else ()
            yield Sample(path.name, split, image, (mask, f"{self.top}{name}{ROWS}", *further), group=path.name)

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, _, *parts = sample.files
        table = self._table(sample)
        ids = _numbers(read_pixels(self.root / mask))
        annotation = Annotation.of_classes(self._classes(ids, table.get(0, {}), self.labels, sample))
        trains = {name: train for train, name in enumerate(self.labels.classes)}
        rows = [Segment(number, trains[name]) for number, name in table.get(0, {}).items()]
        layers, segments = one_layer(ids, rows)
        further = {}
        if PART in self.labels.further:
            labels = self.labels.further[PART]
            numbers = _numbers(read_pixels(self.root / parts[0])) if parts else np.zeros_like(ids)
            further[PART] = self._classes(numbers, table.get(1, {}), labels, sample)
        empty = len(rows) - len(segments)
        return replace(annotation, layers=layers, segments=segments, further=further, empty=empty)

    def _classes(self, ids: NDArray, rows: Mapping[int, str], labels: LabelMap, sample: Sample) -> NDArray:
        """Train ids of a map of numbers."""
        values = np.unique(ids).tolist()
        if unknown := [value for value in values if value and value not in rows]:
            raise InputError(f"{sample.files[1]} has no row for the objects {unknown[:5]} of its map: replace both")
        trains = {name: train for train, name in enumerate(labels.classes)}
        table = np.full(max(values) + 1, labels.ignore_index, labels.dtype)
        for value in filter(None, values):
            table[value] = trains[rows[value]]
        return table[ids]

    def _table(self, sample: Sample) -> Rows:
        path = self.root / sample.files[1]
        found: Rows = {}
        for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
            cells = [cell.strip() for cell in line.split("#")]
            if not line.strip():
                continue
            if len(cells) < 5 or not cells[0].isdecimal() or not cells[1].isdecimal():
                raise InputError(
                    f"{path} line {number} is {line.strip()[:100]!r}, expected number # level # occluded # class # name"
                )
            found.setdefault(int(cells[1]), {})[int(cells[0])] = cells[3] or cells[4]
        return found


def _numbers(pixels: NDArray) -> NDArray[np.int32]:
    """Numbers of objects, from 1: the rank of blue among its values above 0, as the dataset's own code counts them."""
    blue = pixels[..., -1].astype(np.int32)
    ranks = np.zeros(256, np.int32)
    values = np.unique(blue[blue > 0])
    ranks[values] = np.arange(1, len(values) + 1)
    return ranks[blue]


def _label_map(names: Iterable[str]) -> LabelMap:
    ordered = tuple(sorted(names))
    ignore_index = 255 if len(ordered) <= 255 else -1
    ids = {train: train for train in range(len(ordered))}
    return LabelMap(ordered, distinct_colors(len(ordered)), ids, ignore_index)

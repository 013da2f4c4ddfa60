"""The full ADE20K (Zhou, CVPR 2017), every object with its class, and their parts: the releases ADE20K_2016_07_26 and
ADE20K_2021_17_01.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import read_pixels
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.id_maps import one_layer, values_in
from segmodels.data.layouts.published import Published
from segmodels.data.layouts.splits import published_split
from segmodels.errors import InputError
from segmodels.files import check_shape, read_plain_text, reading
from segmodels.labels import LabelMap, ignore_index_for

SEGMENTS = "_seg"
PARTS = re.compile(r"(.+)_parts_(\d+)$")
PART = "part"
"""Name of the further map of parts; ``part_2`` are parts of parts, and so on."""

PER_CLASS = 256
"""Number of an object in the release of 2021: class times this, plus its value of blue."""

Names = dict[int, dict[int, str]]
"""Level (0 objects, 1 their parts, 2 parts of parts) -> number of an object or class -> name of the class."""

OBJECT = {
    "name": (str, [object]),
    "raw_name": (str, [object]),
    "name_ndx": (int, [object]),
    "parts": {"part_level": int},
}
"""Fields without a value are empty lists."""

FORM = {"annotation": {"object": (OBJECT, [OBJECT])}}
SOURCE = "https://groups.csail.mit.edu/vision/datasets/ADE20K/"
LICENCE = "non-commercial research and education"
GET = f"register at {SOURCE} and unpack {{}}.zip"


class FullAde20k(Published):
    """The base of both releases: an image, its maps and the table of its objects lie side by side."""

    table_end: ClassVar[str]
    """End of the name of a table."""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        for home in (folder / "images" / "ADE", folder / "images", folder):
            for split in ("training", "validation"):
                tables = (path for place in ("*", "*/*") for path in (home / split).glob(f"{place}/*{cls.table_end}"))
                if any(path.with_name(path.name.removesuffix(cls.table_end) + "_seg.png").is_file() for path in tables):
                    return True
        return False

    @classmethod
    def published(cls) -> LabelMap | None:
        return None

    @cached_property
    def labels(self) -> LabelMap:
        found: dict[int, set[str]] = defaultdict(set)
        for sample in self.samples():
            for level, names in self.names(self.root / sample.files[1]).items():
                found[level].update(names.values())
        labels = _label_map(found.pop(0, set()))
        further = {_map_name(level): _label_map(names) for level, names in sorted(found.items()) if len(names) > 1}
        return replace(labels, things=frozenset(range(labels.num_classes)), further=further)

    def samples(self) -> Iterable[Sample]:
        files = self.files("")
        masks = {name.removesuffix(SEGMENTS): file for name, file in files.items() if name.endswith(SEGMENTS)}
        parts = defaultdict(list)
        for name, file in files.items():
            if match := PARTS.fullmatch(name):
                parts[match[1]].append(file)
        images = {name: file for name, file in files.items() if name in masks or file.endswith(".jpg")}
        for name, image, mask in self.paired(images, masks):
            path = PurePosixPath(name)
            split = next((own for part in path.parts[:-1] if (own := published_split(part))), None)
            further = (mask, f"{self.top}{name}{self.table_end}", *parts.get(name, ()))
            yield Sample(path.name, split, image, further, group=path.name)

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, table, *parts = sample.files
        names = self.names(self.root / table)
        ids, rows = self.objects(read_pixels(self.root / mask), names.get(0, {}), table)
        annotation = Annotation.of_classes(_classes(ids, rows, self.labels))
        known = [Segment(number, self.labels.classes.index(name)) for number, name in rows.items()]
        layers, segments = one_layer(ids, known)
        maps = {_level(file): file for file in parts}
        further = {}
        for name, labels in self.labels.further.items():
            level = int(name.rpartition("_")[2]) if "_" in name else 1
            further[name] = np.full(ids.shape, labels.ignore_index, labels.dtype)
            if level in maps:
                numbers, rows = self.objects(read_pixels(self.root / maps[level]), names.get(level, {}), table)
                further[name] = _classes(numbers, rows, labels)
        return replace(annotation, layers=layers, segments=segments, further=further, empty=len(known) - len(segments))

    @abstractmethod
    def names(self, table: Path) -> Names:
        """The classes that a table names."""

    @abstractmethod
    def objects(self, pixels: NDArray, names: Mapping[int, str], table: str) -> tuple[NDArray, dict[int, str]]:
        """Numbers of objects in a map, 0 for none, and the class of each.

        Args:
            pixels: the map as stored, RGB.
            names: of the map's level.
            table: what errors call the table.

        Raises:
            InputError: the table lacks an object of the map.
        """


@register_layout(
    "ade20k_full",
    LayoutCard(
        "ADE20K with all classes, objects and parts, release of 2016",
        SOURCE,
        "train 20210, val 2000",
        LICENCE,
        GET.format("ADE20K_2016_07_26"),
    ),
)
class Ade20kFull(FullAde20k):
    """The full ADE20K, release ADE20K_2016_07_26.

    Classes are all names of objects in the tables ``*_atr.txt``, in alphabetical order; other pixels count nowhere.
    Every object of ``*_seg.png`` is a segment. The parts in ``*_parts_1.png`` are a further map, ``part``; parts of
    parts are ``part_2``, and so on.
    """

    places = ("", "ADE20K_2016_07_26/")
    table_end = "_atr.txt"
    marks = "pictures beside *_seg.png and *_atr.txt, below training/ and validation/ (ADE20K_2016_07_26)"
    tree: ClassVar[str] = """\
images/training/a/abbey/ADE_train_00000970.jpg             likewise validation/
images/training/a/abbey/ADE_train_00000970_seg.png         RGB: class R / 10 * 256 + G, number of the object B
images/training/a/abbey/ADE_train_00000970_parts_1.png     optional: the same for parts of objects; likewise _parts_2
images/training/a/abbey/ADE_train_00000970_atr.txt         number # level # occluded # class # raw name # "attributes"
"""

    def names(self, table: Path) -> Names:
        found: Names = {}
        for number, line in enumerate(read_plain_text(table).splitlines(), start=1):
            cells = [cell.strip() for cell in line.split("#")]
            if not line.strip():
                continue
            if len(cells) < 5 or not cells[0].isdecimal() or not cells[1].isdecimal():
                raise InputError(
                    f"{table} line {number} is {line.strip()[:100]!r}, expected number # level # occluded # class #"
                    " name: restore the table"
                )
            found.setdefault(int(cells[1]), {})[int(cells[0])] = cells[3] or cells[4]
        return found

    def objects(self, pixels: NDArray, names: Mapping[int, str], table: str) -> tuple[NDArray, dict[int, str]]:
        """An object's number is the rank of its blue among those above 0, as the dataset's own code counts them."""
        blue = pixels[..., -1].astype(np.int32)
        ranks = np.zeros(256, np.int32)
        values = np.unique(blue[blue > 0])
        ranks[values] = np.arange(1, len(values) + 1)
        if unknown := [number for number in range(1, len(values) + 1) if number not in names]:
            raise InputError(f"{table} has no row for the objects {unknown[:5]} of its map: replace both")
        return ranks[blue], dict(names)


@register_layout(
    "ade20k_2021",
    LayoutCard(
        "ADE20K with all classes, objects and parts, release of 2021",
        SOURCE,
        "train 25574, val 2000",
        LICENCE,
        GET.format("ADE20K_2021_17_01"),
    ),
)
class Ade20k2021(FullAde20k):
    """The full ADE20K, release ADE20K_2021_17_01.

    Classes are all names of objects in the JSON files of the pictures, in alphabetical order; other pixels count
    nowhere. Every object of ``*_seg.png``, where it is visible, is a segment. The parts in ``*_parts_1.png`` are a
    further map, ``part``; parts of parts are ``part_2``, and so on. The folders of masks of whole objects, hidden
    pixels included, are not read.
    """

    places = ("", "ADE20K_2021_17_01/", "ADE20K_2021_17_01/ADE20K_2021_17_01/")
    table_end = ".json"
    marks = "pictures beside *_seg.png and *.json, below images/ADE/training/ and validation/ (ADE20K_2021_17_01)"
    tree: ClassVar[str] = """\
ADE20K_2021_17_01/images/ADE/
  training/urban/street/ADE_train_00016869.jpg              likewise validation/
  training/urban/street/ADE_train_00016869_seg.png          RGB: class R / 10 * 256 + G, number of the object B
  training/urban/street/ADE_train_00016869_parts_1.png      optional: the same for parts of objects; likewise _parts_2
  training/urban/street/ADE_train_00016869.json             objects, with name and number of their class
  training/urban/street/ADE_train_00016869/instance_*.png   not read: masks of whole objects
"""

    def names(self, table: Path) -> Names:
        with reading(table, damaged="restore it"):
            content = _parsed(table.read_bytes())
            check_shape(content, FORM)
            listed = content["annotation"]["object"]
        found: Names = {}
        for row in [listed] if isinstance(listed, dict) else listed:
            name = next((own for own in (row["name"], row["raw_name"]) if isinstance(own, str) and own.strip("- ")), "")
            if isinstance(row["name_ndx"], int) and name:
                found.setdefault(row["parts"]["part_level"], {})[row["name_ndx"]] = name
        return found

    def objects(self, pixels: NDArray, names: Mapping[int, str], table: str) -> tuple[NDArray, dict[int, str]]:
        """An object's number is that of its class and its blue. Numbers of classes count from 1."""
        red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
        classes = red // 10 * 256 + green
        ids = np.where(classes > 0, classes * PER_CLASS + blue, 0)
        values = [value for value in values_in(ids) if value]
        if unknown := sorted({value // PER_CLASS for value in values} - names.keys()):
            raise InputError(f"{table} lists no object of the classes {unknown[:5]} of its map: replace both")
        return ids, {value: names[value // PER_CLASS] for value in values}


def _parsed(data: bytes) -> Any:
    """JSON in UTF-8, or in Latin-1 as some files of the release are."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return json.loads(data.decode("latin-1"))


def _classes(ids: NDArray, rows: Mapping[int, str], labels: LabelMap) -> NDArray:
    """Train ids of a map of numbers."""
    values = values_in(ids)
    trains = {name: train for train, name in enumerate(labels.classes)}
    table = np.full(max(values, default=0) + 1, labels.ignore_index, labels.dtype)
    for value in filter(None, values):
        table[value] = trains[rows[value]]
    return table[ids]


def _level(file: str) -> int:
    """The level of a map of parts."""
    match = PARTS.fullmatch(file.rpartition(".")[0])
    return int(match[2]) if match else 0


def _map_name(level: int) -> str:
    return PART if level == 1 else f"{PART}_{level}"


def _label_map(names: Iterable[str]) -> LabelMap:
    ordered = tuple(sorted(names))
    ids = {train: train for train in range(len(ordered))}
    return LabelMap(ordered, distinct_colors(len(ordered)), ids, ignore_index_for(len(ordered)))

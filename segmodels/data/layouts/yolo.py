"""Polygons in YOLO's text files (https://docs.ultralytics.com/datasets/segment/), one file per image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.checks import shown
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import SUFFIXES, picture_size
from segmodels.data.folder_files import composed, files_below, is_leftover
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_json import decode_mask, with_background
from segmodels.data.layouts.splits import splits_by_folder
from segmodels.data.limits import require_size
from segmodels.errors import InputError
from segmodels.files import read_plain_text, reading
from segmodels.labels import LabelMap

BOX = 4
"""Numbers of a line that is a box: its centre, width and height."""

MOST = 2
"""A coordinate above is no share of the image's side but a pixel; slightly above 1 are corners outside the image."""


@register_layout(
    "yolo",
    LayoutCard(
        "polygons in YOLO's text files, as Ultralytics, Roboflow and CVAT have them",
        "https://docs.ultralytics.com/datasets/segment/",
        get="for Roboflow: export your project of instance segmentation as YOLOv8 or later",
    ),
)
class Yolo(Layout):
    """Objects as polygons in YOLO's text files. Class 0 is the background; the others are the ``names`` of the YAML
    file in their order, so that YOLO's class 0 is class 1.

    Each line is an object, drawn as COCO's polygons are, small ones above large ones. An image without a text file has
    no objects; folders of images without any text file are left out. Folders train, val (or valid) and test are splits
    (two are enough), whatever paths the YAML file gives.
    """

    turned = True  # as YOLO reads pictures
    marks = (
        "a YAML file with names (data.yaml) beside images/ and labels/*.txt, or train/images/ and train/labels/*.txt"
    )
    tree: ClassVar[str] = """\
data.yaml                    names: a list, or number: name
images/train/0001.jpg        or train/images/0001.jpg; splits may be missing
labels/train/0001.txt        a line per object: class x1 y1 x2 y2 x3 y3 ..., shares of width and height
"""

    @classmethod
    def fits(cls, root: Path) -> bool:
        places = ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt")
        found = (path.relative_to(root).parent for place in places for path in root.glob(place))
        return bool(_tables(root)) and any((root / _swapped(path, "labels", "images")).is_dir() for path in found)

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        if not _tables(self.root):
            raise InputError(
                f"dataset folder {self.root} is not organised as layout {self.name!r}, expected {self.marks}: check the"
                " path"
            )

    @cached_property
    def labels(self) -> LabelMap:
        for path in _tables(self.root):
            with reading(path, damaged="expected 'names: [car, person]' or 'names: {0: car, 1: person}'; correct it"):
                content = yaml.safe_load(read_plain_text(path))
                if not isinstance(content, dict) or "names" not in content:
                    continue
                names = content["names"]
                rows = dict(names) if isinstance(names, dict) else dict(enumerate(names))
                if not rows or sorted(rows) != list(range(len(rows))):
                    raise ValueError("names are not numbered from 0")
                if odd := [name for name in rows.values() if not isinstance(name, str | int | float)]:
                    raise ValueError(f"a name is a {type(odd[0]).__name__}")
                listed = [str(rows[number]) for number in range(len(rows))]
                return with_background(
                    listed, distinct_colors(len(rows) + 1)[1:], {number + 1: number for number in range(len(rows))}
                )
        raise InputError(f"{_tables(self.root)[0]} has no names, expected 'names: [car, person]': add the classes")

    def samples(self) -> Iterable[Sample]:
        files = [name for name in files_below(self.root) if not any(map(is_leftover, name.split("/")))]
        tables = {composed(name): name for name in files if "labels" in name.split("/") and name.endswith(".txt")}
        places = {PurePosixPath(name).parent for name in tables}
        images: dict[str, tuple[str, str]] = {}
        self.left_out = []
        classes = _tables(self.root)[0].name
        for name in files:
            path = PurePosixPath(composed(name))
            if path.suffix.lower() not in SUFFIXES or "images" not in path.parts[:-1]:
                continue
            table = PurePosixPath(_swapped(path, "images", "labels")).with_suffix(".txt")
            if table.parent not in places:
                self.left_out.append(name)
                continue
            sample = str(PurePosixPath(_swapped(path, "images", "")).with_suffix(""))
            if sample in images:
                raise InputError(
                    f"{self.root / images[sample][0]} and {name} have the same name up to the ending, expected one file"
                    " per sample: rename or remove one"
                )
            # without a text file: annotated as one without objects, which the YAML file stands for
            images[sample] = name, tables.pop(str(table), classes)
        self.left_out += tables.values()
        splits = splits_by_folder(self.root, images)
        for sample, (image, file) in images.items():
            yield Sample(sample, splits.get(sample), image, (file,), group=sample)

    def read_image(self, sample: Sample) -> NDArray:
        return self.read_picture(sample)

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        return picture_size(self.root / sample.image)

    def annotation(self, sample: Sample) -> Annotation | None:
        size = self.annotation_size(sample) or self.read_image(sample).shape[:2]
        require_size(size, sample.image)
        objects = self._objects(sample.files[0], size) if sample.files[0].endswith(".txt") else []
        classes = np.zeros(size, self.labels.dtype)
        for label, mask in sorted(objects, key=lambda one: -int(one[1].sum())):
            classes[mask] = label
        layers = pack_layers([mask for _, mask in objects], size)
        layers = layers[layers.any(axis=(1, 2))]
        segments = [Segment(number, label) for number, (label, _) in enumerate(objects, start=1)]
        found = rows_of(layers, segments)
        empty = len(segments) - len(found)
        return replace(Annotation.of_classes(classes), layers=layers, segments=found, empty=empty)

    def _objects(self, file: str, size: tuple[int, int]) -> list[tuple[int, NDArray[np.bool_]]]:
        """Train id and pixels ``(H, W)`` of each object."""
        found = []
        for number, line in enumerate(read_plain_text(self.root / file).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                first, *corners = map(float, line.split())
                label = int(first)
            except (ValueError, OverflowError):
                raise InputError(f"{where} is {shown(line)}, expected class x1 y1 x2 y2 ...: correct it") from None
            if len(corners) == BOX:
                raise InputError(
                    f"{where} is a box, {shown(line)}, expected a polygon, class x1 y1 x2 y2 x3 y3 ...: export the"
                    " project as segmentation"
                )
            if label != first or not 0 <= label < self.labels.num_classes - 1:
                raise InputError(
                    f"{where} has the class {first:g}, expected 0 to {self.labels.num_classes - 2}, the numbers of the"
                    " names: correct it"
                )
            if far := [one for one in corners if not abs(one) <= MOST]:
                raise InputError(
                    f"{where} has the coordinate {far[0]:g}, expected shares of the image's width and height, 0 to 1:"
                    " divide the pixels by these"
                )
            polygon = [one * size[1 - place % 2] for place, one in enumerate(corners)]
            found.append((label + 1, decode_mask([polygon], size, where)))
        return found


def _tables(root: Path) -> list[Path]:
    """YAML files at the top, ``data.yaml`` first."""
    found = (path for path in root.iterdir() if path.suffix.lower() in (".yaml", ".yml") and path.is_file())
    return sorted(found, key=lambda path: (path.stem != "data", path.name))


def _swapped(path: PurePosixPath | Path, old: str, new: str) -> str:
    """The path with ``new`` in place of its last folder ``old``; without that folder where ``new`` is empty."""
    parts = list(path.parts)
    place = len(parts) - 1 - parts[::-1].index(old)
    parts[place : place + 1] = [new] if new else []
    return "/".join(parts)

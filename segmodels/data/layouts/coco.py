"""MS COCO (Lin, ECCV 2014): objects, panoptic maps (Kirillov 2019) and COCO-Stuff (Caesar, CVPR 2018), three views of
the same photographs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import read_mask, read_pixels
from segmodels.data.folder_files import files_below
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_archives import IMAGES, OBJECTS, PANOPTIC, STUFF
from segmodels.data.layouts.coco_json import (
    CocoFile,
    box_of,
    find_image,
    labels_of,
    object_annotation,
    stated_size,
    with_background,
)
from segmodels.data.layouts.id_maps import one_layer, values_in
from segmodels.data.layouts.pairing import encode_labels
from segmodels.data.layouts.published import Published, read_label_table
from segmodels.errors import InputError
from segmodels.files import check_shape
from segmodels.labels import LabelMap

SOURCE = "https://cocodataset.org"
LICENCE = "annotations CC BY 4.0; photographs under the terms of Flickr"
COUNTS = "train 118287, val 5000; test 40670 without public annotations"
SEGMENT = {"id": int, "category_id": int}
STUFF_FOLDERS = ("stuffthingmaps/", "stuffthingmaps_trainval2017/", "annotations/")
_SPLIT = re.compile(r"(train|val)(\d{4})?")


class CocoView(Published):
    """What the views share: images in ``train2017/``, ``images/train2017/``, ``images/train/`` or ``images/``. Of
    several years the newest is read.
    """

    places = ("", "coco/", "COCO/", "coco_stuff164k/")
    automatic = False
    prefix: ClassVar[str]
    """Begins the names of the JSON files of the view."""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return bool(_parts(folder / "annotations", cls.prefix, ".json"))

    @cached_property
    def _all_files(self) -> frozenset[str]:
        return frozenset(files_below(self.root))

    @cached_property
    def _json(self) -> dict[str, CocoFile]:
        """Split, such as ``val2017`` -> its JSON file."""
        found = {}
        for split in _parts(self.root / self.top / "annotations", self.prefix, ".json"):
            name = f"{self.top}annotations/{self.prefix}{split}.json"
            found[split] = CocoFile(self.root / name, name)
        return found

    def _image(self, split: str, name: str) -> str | None:
        folders = (f"{split}/", f"images/{split}/", f"images/{_plain(split)}/", f"{_plain(split)}/", "images/", "")
        return find_image(name, [self.top + folder for folder in folders], self._all_files)


@register_layout(
    "coco_panoptic",
    LayoutCard("COCO, 133 classes in panoptic maps", SOURCE, COUNTS, LICENCE, archives=(*IMAGES, PANOPTIC)),
)
class CocoPanoptic(CocoView):
    """COCO's panoptic maps: 80 countable classes and 53 of stuff, a segment for each object and region.

    Pixels without a segment count nowhere. Boxes, areas and crowds are as the JSON file states them.
    """

    prefix = "panoptic_"
    table = "coco_panoptic"
    marks = "annotations/panoptic_val2017.json"
    tree: ClassVar[str] = """\
val2017/000000000139.jpg                              likewise train2017/; also below images/
annotations/panoptic_val2017.json
annotations/panoptic_val2017/000000000139.png         RGB: id of the segment = R + 256 G + 65536 B
"""

    @cached_property
    def labels(self) -> LabelMap:
        rows = next(iter(self._json.values())).content["categories"]
        official = super().labels
        if {row["name"] for row in rows} == set(official.classes) and {row["id"] for row in rows} == set(official.ids):
            return official
        things = frozenset(train for train, row in enumerate(rows) if row.get("isthing"))
        names = tuple(row["name"] for row in rows)
        ids = {row["id"]: train for train, row in enumerate(rows)}
        return LabelMap(names, distinct_colors(len(names)), ids, 255 if len(names) <= 255 else -1, things)

    def samples(self) -> Iterable[Sample]:
        self.left_out = []
        for split, file in self._json.items():
            names = {row["id"]: name for name, row in file.images.items()}
            for row in file.content["annotations"]:
                image = self._image(split, names.get(row["image_id"], ""))
                if image is None:
                    self.left_out.append(row["file_name"])
                    continue
                mask = f"{self.top}annotations/panoptic_{split}/{row['file_name']}"
                name = _stem(names[row["image_id"]])
                yield Sample(name, _plain(split), image, (mask, file.name), group=name)

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, name = sample.files
        file = next(file for file in self._json.values() if file.name == name)
        row = self._rows[name][mask.rpartition("/")[2]]
        ids = read_pixels(self.root / mask).astype(np.int32)
        if ids.shape[-1] != 3:
            raise InputError(f"{mask} has {ids.shape[-1]} channels, expected the RGB of a panoptic map: replace it")
        ids = ids @ np.array([1, 256, 65536], dtype=np.int32)
        check_shape(row, {"segments_info": [SEGMENT]})
        segments = [self._segment(info, file) for info in row["segments_info"]]
        known = {segment.id: segment.label for segment in segments} | {0: self.labels.ignore_index}
        if len(known) <= len(segments):
            raise InputError(f"{name} lists a segment of {mask} twice, expected each id once: correct it")
        values = values_in(ids)
        if unknown := [value for value in values if value not in known]:
            raise InputError(f"{mask} holds the segments {unknown[:5]}, which {name} does not list: replace both")
        table = np.zeros(values[-1] + 1, self.labels.dtype)
        table[values] = [known[value] for value in values]
        layers, found = one_layer(ids, segments)
        empty = len(segments) - len(found)
        return replace(Annotation.of_classes(table[ids]), layers=layers, segments=found, empty=empty)

    def _segment(self, info: Mapping[str, Any], file: CocoFile) -> Segment:
        label = self.labels.ids.get(info["category_id"])
        if label is None:
            raise InputError(
                f"{file.name}: segment {info['id']} has the category {info['category_id']}, which it does not list"
            )
        return Segment(info["id"], label, bool(info.get("iscrowd", 0)), box_of(info.get("bbox")), info.get("area"))

    @cached_property
    def _rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        """JSON file -> name of the PNG -> row."""
        return {
            file.name: {row["file_name"]: row for row in file.content["annotations"]} for file in self._json.values()
        }


@register_layout(
    "coco_instances",
    LayoutCard("COCO, objects of 80 classes", SOURCE, COUNTS, LICENCE, archives=(*IMAGES, OBJECTS)),
)
class CocoInstances(CocoView):
    """COCO's objects: polygons, and run-length encodings for crowds. Class 0 is the background."""

    prefix = "instances_"
    table = "coco_things"
    marks = "annotations/instances_val2017.json"
    tree: ClassVar[str] = """\
val2017/000000000139.jpg                 likewise train2017/; also below images/
annotations/instances_val2017.json
"""

    @classmethod
    def published(cls) -> LabelMap | None:
        things = read_label_table(cls.table)
        return with_background(things.classes, things.palette, things.ids)

    @cached_property
    def labels(self) -> LabelMap:
        names = [row["name"] for file in self._json.values() for row in file.content["categories"]]
        official = super().labels
        return official if set(names) == set(official.classes[1:]) else labels_of(self._json.values())

    def samples(self) -> Iterable[Sample]:
        self.left_out = []
        for split, file in self._json.items():
            for name in file.images:
                image = self._image(split, name)
                if image is None:
                    self.left_out.append(name)
                    continue
                yield Sample(_stem(name), _plain(split), image, (file.name,), group=_stem(name))

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        return stated_size(self._rows[sample.files[0]][sample.id][1])

    def annotation(self, sample: Sample) -> Annotation | None:
        file, row = self._rows[sample.files[0]][sample.id]
        return object_annotation(file, row, self.labels)

    @cached_property
    def _rows(self) -> dict[str, dict[str, tuple[CocoFile, dict[str, Any]]]]:
        """JSON file -> id of the sample -> the file, and the image's row in it."""
        return {
            file.name: {_stem(name): (file, row) for name, row in file.images.items()} for file in self._json.values()
        }


@register_layout(
    "coco_stuff",
    LayoutCard(
        "COCO-Stuff, 171 classes",
        "https://github.com/nightrome/cocostuff",
        COUNTS,
        LICENCE,
        archives=(*IMAGES, STUFF),
    ),
)
class CocoStuff(CocoView):
    """COCO-Stuff's maps of 80 classes of things and 91 of stuff, without objects. Mask values are category ids less 1;
    255 counts nowhere.
    """

    table = "coco_stuff"
    marks = "stuffthingmaps/val2017/"
    tree: ClassVar[str] = """\
val2017/000000000139.jpg                       likewise train2017/; also below images/
stuffthingmaps/val2017/000000000139.png        category id - 1, 255 unlabelled; also below annotations/
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return bool(_stuff_folders(folder))

    @classmethod
    def published(cls) -> LabelMap | None:
        return replace(read_label_table(cls.table), things=frozenset())

    def samples(self) -> Iterable[Sample]:
        left_out: list[str] = []
        for split, folder in _stuff_folders(self.root / self.top).items():
            images = next(filter(None, (self.files(part) for part in (split, f"images/{split}"))), {})
            images = {name: file for name, file in images.items() if not file.endswith(".png")}
            for name, image, mask in self.paired(images, self.files(folder, (".png",))):
                yield Sample(name, _plain(split), image, (mask,), group=name)
            left_out += self.left_out
        self.left_out = left_out

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        return Annotation.of_classes(encode_labels(self.labels, read_mask(self.root / mask), mask))


@register_layout(
    "coco",
    LayoutCard(
        "COCO, the richest of its views in the folder",
        SOURCE,
        COUNTS,
        LICENCE,
        archives=(*IMAGES, PANOPTIC, OBJECTS),
    ),
)
class Coco(Layout):
    """COCO in the first of the views ``coco_panoptic``, ``coco_stuff`` and ``coco_instances`` that the folder has."""

    marks = "annotations/ with panoptic_val2017.json or instances_val2017.json, or stuffthingmaps/, beside the images"
    tree: ClassVar[str] = """\
val2017/000000000139.jpg                   likewise train2017/; also below images/
annotations/panoptic_val2017.json          and panoptic_val2017/: layout coco_panoptic
stuffthingmaps/val2017/                    layout coco_stuff
annotations/instances_val2017.json         layout coco_instances
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        view = self._view_of(self.root)
        if view is None:
            raise InputError(
                f"dataset folder {self.root} is not organised as layout {self.name!r}, expected {self.marks}: check the"
                " path"
            )
        self._view = view(root)

    @classmethod
    def fits(cls, root: Path) -> bool:
        return cls._view_of(root) is not None

    @staticmethod
    def _view_of(root: Path) -> type[CocoView] | None:
        return next((view for view in (CocoPanoptic, CocoStuff, CocoInstances) if view.place(root) is not None), None)

    @property
    def labels(self) -> LabelMap:
        return self._view.labels

    def samples(self) -> Iterable[Sample]:
        yield from self._view.samples()
        self.left_out = self._view.left_out

    def read_image(self, sample: Sample) -> NDArray:
        return self._view.read_image(sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        return self._view.annotation(sample)


def _parts(folder: Path, start: str, end: str) -> list[str]:
    """Train and val, with their year, of the files or folders START...END; those of the newest year."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name
        split = name[len(start) : len(name) - len(end)]
        if name.startswith(start) and name.endswith(end) and _SPLIT.fullmatch(split):
            found[_plain(split)] = split
    newest = max((split[len(_plain(split)) :] for split in found.values()), default="")
    return [split for split in found.values() if split.endswith(newest)]


def _stuff_folders(folder: Path) -> dict[str, str]:
    """Split -> the folder of its maps, relative to ``folder``."""
    for place in STUFF_FOLDERS:
        found = {split: f"{place}{split}" for split in _parts(folder / place, "", "")}
        if found := {split: part for split, part in found.items() if (folder / part).is_dir()}:
            return found
    return {}


def _plain(split: str) -> str:
    """``train`` of ``train2017``."""
    return split.rstrip("0123456789")


def _stem(name: str) -> str:
    """A path without its ending."""
    return str(PurePosixPath(name).with_suffix(""))

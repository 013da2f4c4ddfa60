"""COCO-Stuff (Caesar, CVPR 2018): maps of things and stuff over the photographs of COCO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation
from segmodels.data.classes_file import distinct_colors
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_archives import IMAGES, STUFF
from segmodels.data.layouts.coco_json import object_annotation, with_background
from segmodels.data.layouts.coco_view import ANNOTATIONS, COUNTS, LICENCE, CocoView, found, plain
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import read_label_table
from segmodels.labels import LabelMap

MAPS = ("stuffthingmaps/", "stuffthingmaps_trainval2017/", "annotations/")
"""Folders of the 171 classes' maps."""

PIXEL_MAPS = "_pixelmaps"
"""End of the names of the folders of COCO's own maps, with 91 classes of stuff and one for all things."""

FIRST_STUFF, THINGS_ID = 92, 183
THINGS_COLOR = (255, 255, 255)


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

    The maps of COCO's own stuff annotations hold category ids as they are: 91 classes of stuff, 183 for all things,
    here the class ``other``, and 0, which counts nowhere. Without maps they are drawn from their JSON files.
    """

    prefix = "stuff_"
    table = "coco_stuff"
    marks = "stuffthingmaps/val2017/ or annotations/stuff_val2017_pixelmaps/"
    tree: ClassVar[str] = """\
val2017/000000000139.jpg                                     likewise train2017/; also below images/
stuffthingmaps/val2017/000000000139.png                      category id - 1, 255 unlabelled; also below annotations/
annotations/stuff_val2017_pixelmaps/000000000139.png         or these: category id of stuff, 183 things, 0 unlabelled
annotations/stuff_val2017.json                               or this, the same in run-length encodings
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return bool(_maps(folder) or _pixel_maps(folder) or super().begins(folder))

    @classmethod
    def with_things(cls, root: Path) -> bool:
        """Whether the maps hold things too, all 171 classes."""
        return bool(_maps(root / (cls.place(root) or "")))

    @classmethod
    def published(cls) -> LabelMap | None:
        return replace(read_label_table(cls.table), things=frozenset())

    @cached_property
    def labels(self) -> LabelMap:
        whole = super().labels
        if _maps(self.root / self.top):
            return whole
        stuff = {id + 1: train for id, train in whole.ids.items() if FIRST_STUFF <= id + 1 < THINGS_ID}
        names = (*(whole.classes[train] for train in stuff.values()), "other")
        colors = (*(whole.palette[train] for train in stuff.values()), THINGS_COLOR)
        ids = {id: train for train, id in enumerate((*stuff, THINGS_ID))}
        if not _pixel_maps(self.root / self.top):
            listed = {id: name for file in self.json_files.values() for id, name in file.categories.items()}
            if not listed.keys() <= ids.keys() or any(names[ids[id]] != name for id, name in listed.items()):
                ids = {id: train for train, id in enumerate(sorted(listed))}
                names, colors = tuple(listed[id] for id in ids), distinct_colors(len(ids))
        return LabelMap(names, colors, ids | {0: whole.ignore_index}, whole.ignore_index)

    def samples(self) -> Iterable[Sample]:
        left_out: list[str] = []
        folder = self.root / self.top
        maps_of = _maps(folder) or _pixel_maps(folder)
        if not maps_of:
            yield from self.samples_of_files()
            return
        for split, maps in maps_of.items():
            parts = (split, f"images/{split}", f"images/{plain(split)}", plain(split), "images")
            images = next(filter(None, (self.files(part) for part in parts)), {})
            images = {name: file for name, file in images.items() if not file.endswith(".png")}
            for name, image, mask in self.paired(images, self.files(maps, (".png",))):
                yield Sample(name, plain(split), image, (mask,), group=name)
            left_out += self.left_out
        self.left_out = left_out

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        if not mask.endswith(".json"):
            return Annotation.of_classes(encode_labels(self.labels, read_mask(self.root / mask), mask))
        file, row = self.rows[mask][sample.id]
        objects = with_background(self.labels.classes, self.labels.palette, {})
        drawn = object_annotation(file, row, objects).classes
        return Annotation.of_classes(np.where(drawn > 0, drawn - 1, self.labels.ignore_index).astype(self.labels.dtype))


def _maps(folder: Path) -> Mapping[str, str]:
    """Split -> the folder of its maps, relative to ``folder``."""
    for place in MAPS:
        maps = found(folder, (place,), "", "")
        if maps := {split: part for split, part in maps.items() if (folder / part).is_dir()}:
            return maps
    return {}


def _pixel_maps(folder: Path) -> Mapping[str, str]:
    return found(folder, (*ANNOTATIONS, ""), "stuff_", PIXEL_MAPS)

"""COCO's panoptic maps (Kirillov, CVPR 2019): a segment for each object and region."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from segmodels.annotations import Annotation, Segment
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import read_pixels
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_archives import IMAGES, PANOPTIC
from segmodels.data.layouts.coco_json import CocoFile, area_of, box_of, is_crowd, stem
from segmodels.data.layouts.coco_view import COUNTS, LICENCE, SOURCE, CocoView, plain
from segmodels.data.layouts.id_maps import one_layer, values_in
from segmodels.errors import InputError
from segmodels.files import check_shape
from segmodels.labels import LabelMap, ignore_index_for

SEGMENT = {"id": int, "category_id": int}


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
        rows = next(iter(self.json_files.values())).content["categories"]
        official = super().labels
        if {row["name"] for row in rows} == set(official.classes) and {row["id"] for row in rows} == set(official.ids):
            return official
        things = frozenset(train for train, row in enumerate(rows) if row.get("isthing"))
        names = tuple(row["name"] for row in rows)
        ids = {row["id"]: train for train, row in enumerate(rows)}
        return LabelMap(names, distinct_colors(len(names)), ids, ignore_index_for(len(names)), things)

    def samples(self) -> Iterable[Sample]:
        self.left_out = []
        for split, file in self.json_files.items():
            names = {row["id"]: name for name, row in file.images.items()}
            for row in file.content["annotations"]:
                image = self.image(split, names.get(row["image_id"], ""))
                if image is None:
                    self.left_out.append(row["file_name"])
                    continue
                name = stem(names[row["image_id"]])
                mask = self._map(split, file, row["file_name"])
                yield Sample(name, plain(split), image, (mask, file.name), group=name)

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, name = sample.files
        file = next(file for file in self.json_files.values() if file.name == name)
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

    def _map(self, split: str, file: CocoFile, name: str) -> str:
        """Path of a map relative to the root: in the folder that its zip file unpacks to, once or twice nested, beside
        the JSON file or at the top.

        Raises:
            InputError: the zip file is still packed.
        """
        beside = file.name.rpartition("/")[0] + "/"
        own = f"{self.prefix}{split}/"
        places = [f"{beside}{own}{name}", f"{beside}{own}{own}{name}", f"{self.top}{own}{name}"]
        there = next((place for place in places if place in self.all_files), None)
        packed = f"{beside}{self.prefix}{split}.zip"
        if there is None and packed in self.all_files:
            raise InputError(f"{packed} is packed, but holds the maps of {file.name}: unpack it into {beside}")
        return there or places[0]

    def _segment(self, info: Mapping[str, Any], file: CocoFile) -> Segment:
        label = self.labels.ids.get(info["category_id"])
        if label is None:
            raise InputError(
                f"{file.name}: segment {info['id']} has the category {info['category_id']}, which it does not list:"
                " correct it"
            )
        return Segment(info["id"], label, is_crowd(info), box_of(info), area_of(info))

    @cached_property
    def _rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        """JSON file -> name of the PNG -> row."""
        return {
            file.name: {row["file_name"].rpartition("/")[2]: row for row in file.content["annotations"]}
            for file in self.json_files.values()
        }

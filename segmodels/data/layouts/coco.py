"""MS COCO (Lin, ECCV 2014): its objects, and the richest of the views of the same photographs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_archives import IMAGES, OBJECTS, PANOPTIC
from segmodels.data.layouts.coco_json import labels_of, object_annotation, stated_size, with_background
from segmodels.data.layouts.coco_panoptic import CocoPanoptic
from segmodels.data.layouts.coco_stuff import CocoStuff
from segmodels.data.layouts.coco_view import COUNTS, LICENCE, SOURCE, CocoView
from segmodels.data.layouts.published import read_label_table
from segmodels.labels import LabelMap


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
        names = [row["name"] for file in self.json_files.values() for row in file.content["categories"]]
        official = super().labels
        return official if set(names) == set(official.classes[1:]) else labels_of(self.json_files.values())

    def samples(self) -> Iterable[Sample]:
        for file in self.json_files.values():
            file.require_masks()
        return self.samples_of_files()

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        return stated_size(self.rows[sample.files[0]][sample.id][1])

    def annotation(self, sample: Sample) -> Annotation | None:
        file, row = self.rows[sample.files[0]][sample.id]
        return object_annotation(file, row, self.labels)


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

    marks = (
        "annotations/ with panoptic_val2017.json, instances_val2017.json or stuff_val2017_pixelmaps/, or"
        " stuffthingmaps/, beside the images"
    )
    tree: ClassVar[str] = """\
val2017/000000000139.jpg                   likewise train2017/; also below images/
annotations/panoptic_val2017.json          and panoptic_val2017/: layout coco_panoptic
stuffthingmaps/val2017/                    layout coco_stuff, or annotations/stuff_val2017_pixelmaps/
annotations/instances_val2017.json         layout coco_instances
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        view = self._view_of(self.root)
        if view is None:
            raise self.not_organised()
        self._view = view(root)

    @classmethod
    def fits(cls, root: Path) -> bool:
        return cls._view_of(root) is not None

    @staticmethod
    def _view_of(root: Path) -> type[CocoView] | None:
        views = [view for view in (CocoPanoptic, CocoStuff, CocoInstances) if view.place(root) is not None]
        if CocoStuff in views and not CocoStuff.with_things(root):
            views.sort(key=lambda view: view is CocoStuff)  # maps of stuff alone say less than objects
        return next(iter(views), None)

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

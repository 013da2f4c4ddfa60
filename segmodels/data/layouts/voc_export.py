"""Masks in the folders of PASCAL VOC with classes of one's own: CVAT ("Segmentation mask"), Datumaro, labelme2voc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from segmodels.data.classes_file import VOID, Classes, distinct_colors, has_classes_file, read_classes
from segmodels.data.decoding import Color
from segmodels.data.folder_files import composed
from segmodels.data.layouts.base import LayoutCard, register_layout
from segmodels.data.layouts.labelme import BACKGROUND, IGNORED
from segmodels.data.layouts.splits import published_split
from segmodels.data.layouts.voc2012 import OWN_CLASSES, Voc2012
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap, ignore_index_for

LISTS = "ImageSets/Segmentation"


@register_layout(
    "voc_export",
    LayoutCard(
        "masks and classes as CVAT (Segmentation mask), Datumaro and labelme2voc export them",
        "https://docs.cvat.ai/docs/manual/advanced/formats/format-smask/",
        get="export your project as Segmentation mask 1.1, with images",
    ),
)
class VocExport(Voc2012):
    """PASCAL VOC's folders with classes of one's own.

    Classes stand in ``labelmap.txt`` (CVAT) or ``class_names.txt`` (labelme2voc), in the order of the train ids, or in
    ``classes.txt`` or ``classes.json`` as in layout ``folder``. Masks hold the classes' colours, or their numbers as
    grey values or palette indices; 255 counts nowhere. The lists of ``ImageSets/Segmentation`` that have a split's name
    are the splits; others, such as ``trainval.txt``, count only where none has. All classes but the background are
    countable; without ``SegmentationObject/`` there are no objects.
    """

    places: ClassVar[tuple[str, ...]] = ("",)
    marks = "JPEGImages/ and SegmentationClass/ beside labelmap.txt (CVAT) or class_names.txt (labelme2voc)"
    tree: ClassVar[str] = """\
labelmap.txt                           a class per line: name:red,green,blue:parts:actions
JPEGImages/0001.jpg
SegmentationClass/0001.png             the classes' colours
SegmentationObject/0001.png            optional: a colour for each object
ImageSets/Segmentation/default.txt     optional: one id per line; or train.txt, val.txt
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return cls.has_masks(folder) and cls.has_own_classes(folder)

    @classmethod
    def published(cls) -> LabelMap | None:
        return None

    @cached_property
    def _classes(self) -> dict[str, Color]:
        """Name -> colour, in the order of the file; without the label of ignored pixels."""
        path = next(path for name in OWN_CLASSES if (path := self.root / self.top / name).is_file())
        lines = [line.strip() for line in read_plain_text(path).splitlines()]
        lines = [line for line in lines if line and not line.startswith("#") and line != IGNORED]
        found: dict[str, Color] = {}
        for line, default in zip(lines, distinct_colors(len(lines)), strict=True):
            name, _, rest = line.partition(":") if path.name == OWN_CLASSES[0] else (line, "", "")
            numbers = rest.partition(":")[0].split(",") if rest.strip(": ") else list(map(str, default))
            if not name or len(numbers) != 3 or not all(one.strip().isdecimal() and int(one) < 256 for one in numbers):
                raise InputError(
                    f"{path} has the line {line[:100]!r}, expected name:red,green,blue:parts:actions: correct it"
                )
            found["background" if name == BACKGROUND else name] = int(numbers[0]), int(numbers[1]), int(numbers[2])
        return found

    @cached_property
    def _listed(self) -> Classes | None:
        """The classes of ``classes.txt`` or ``classes.json``."""
        folder = self.root / self.top
        return read_classes(folder) if has_classes_file(folder) else None

    @cached_property
    def labels(self) -> LabelMap:
        if self._listed:
            own, named = self._listed.labels, self._listed.things
            things = named or frozenset(range(1, own.num_classes))
            return replace(own, things=things if self._objects else frozenset())
        names = tuple(self._classes)
        ids = {train: train for train in range(len(names))}
        things = frozenset(train for train, name in enumerate(names) if name.lower() != "background")
        return LabelMap(
            names,
            tuple(self._classes.values()),
            ids if VOID in ids else ids | {VOID: 255},
            ignore_index_for(len(names)),
            things if self._objects else frozenset(),
        )

    @property
    def _colors(self) -> Mapping[Color, int]:
        if self._listed:
            return self._listed.colors
        return {color: train for train, color in enumerate(self._classes.values())}

    def _splits(self, annotated: list[str]) -> Iterable[tuple[str | None, list[str]]]:
        folder = self.root / self.top / LISTS
        lists = {path.stem: _names(path) for path in sorted(folder.glob("[!.]*.txt"))} if folder.is_dir() else {}
        if splits := [(split, names) for name, names in lists.items() if (split := published_split(name))]:
            return splits
        return [(None, list(dict.fromkeys(name for names in lists.values() for name in names)) or annotated)]


def _names(path: Path) -> list[str]:
    """The ids of a list, which may have blanks and then stand in quotation marks."""
    lines = (line.strip().strip('"') for line in read_plain_text(path).splitlines())
    return [composed(line) for line in lines if line]

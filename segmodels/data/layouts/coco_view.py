"""The base of the views of COCO: where its archives unpack to, and how their parts belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from segmodels.data.folder_files import files_below
from segmodels.data.layouts.base import Sample
from segmodels.data.layouts.coco_json import CocoFile, by_composed_name, find_image, stem
from segmodels.data.layouts.published import Published

SOURCE = "https://cocodataset.org"
LICENCE = "annotations CC BY 4.0; photographs under the terms of Flickr"
COUNTS = "train 118287, val 5000; test 40670 without public annotations"

ANNOTATIONS = (
    "annotations/",
    "annotations_trainval2017/annotations/",
    "panoptic_annotations_trainval2017/annotations/",
    "stuff_annotations_trainval2017/annotations/",
    "annotations_trainval2014/annotations/",
)
"""Folders of annotations: archives unpacked side by side, or each into a folder of its own name."""

_SPLIT = re.compile(r"(train|val)(\d{4})?")


class CocoView(Published):
    """Images are in ``train2017/``, ``images/train2017/``, ``images/train/`` or ``images/``. Of several years the
    newest is read.
    """

    places = ("", "coco/", "COCO/", "coco2017/", "coco_stuff164k/")
    automatic = False
    prefix: ClassVar[str]
    """Begins the names of the JSON files of the view."""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return bool(found(folder, ANNOTATIONS, cls.prefix, ".json"))

    @cached_property
    def all_files(self) -> dict[str, str]:
        """Paths relative to the root, by their composed form."""
        return by_composed_name(files_below(self.root))

    @cached_property
    def json_files(self) -> dict[str, CocoFile]:
        """Split, such as ``val2017`` -> its JSON file."""
        names = found(self.root / self.top, ANNOTATIONS, self.prefix, ".json")
        return {split: CocoFile(self.root / self.top / name, self.top + name) for split, name in names.items()}

    def image(self, split: str, name: str) -> str | None:
        """Path of an image relative to the root, None where it is missing."""
        folders = (f"{split}/", f"images/{split}/", f"images/{plain(split)}/", f"{plain(split)}/", "images/", "")
        return find_image(name, [self.top + folder for folder in folders], self.all_files)

    def samples_of_files(self) -> Iterable[Sample]:
        """The images that the JSON files list."""
        self.left_out = []
        for split, file in self.json_files.items():
            for name in file.images:
                image = self.image(split, name)
                if image is None:
                    self.left_out.append(name)
                    continue
                yield Sample(stem(name), plain(split), image, (file.name,), group=stem(name))

    @cached_property
    def rows(self) -> dict[str, dict[str, tuple[CocoFile, dict[str, Any]]]]:
        """JSON file -> id of the sample -> the file, and the image's row in it."""
        files = self.json_files.values()
        return {file.name: {stem(name): (file, row) for name, row in file.images.items()} for file in files}


def found(folder: Path, places: tuple[str, ...], start: str, end: str) -> Mapping[str, str]:
    """Train and val, with their year -> path of the file or folder STARTsplitEND relative to ``folder``. Those of the
    newest year in the first of ``places`` that has any.
    """
    for place in places:
        splits: dict[str, str] = {}
        for path in sorted((folder / place).iterdir()) if (folder / place).is_dir() else ():
            name = path.name
            split = name[len(start) : len(name) - len(end)]
            if name.startswith(start) and name.endswith(end) and _SPLIT.fullmatch(split):
                splits[plain(split)] = split
        newest = max((split[len(plain(split)) :] for split in splits.values()), default="")
        if splits:
            return {split: f"{place}{start}{split}{end}" for split in splits.values() if split.endswith(newest)}
    return {}


def plain(split: str) -> str:
    """``train`` of ``train2017``."""
    return split.rstrip("0123456789")

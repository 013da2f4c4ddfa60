"""Images and masks in two folders beside a list of classes: the layout for one's own data."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.data.classes_file import Classes, read_classes
from segmodels.data.decoding import SUFFIXES, read_image, read_mask
from segmodels.data.layouts.base import Layout, Sample
from segmodels.errors import InputError
from segmodels.labels import LabelMap

SPLITS = ("train", "val", "test")


class Folder(Layout):
    """A dataset in this form::

        images/road/0001.jpg        any depth of folders; png jpg bmp tif gif webp pgm ppm
        masks/road/0001.png         the same path below masks/, the ending may differ
        classes.txt                 or classes.json
        splits/train.txt            optional, with val.txt and test.txt: one sample id per line
        groups.csv                  optional: header id,group; default: every sample its own group
        image_labels.csv            optional: header id,label; class of the whole image, a number from 0

    The sample id is the path below ``images/`` without the ending: ``road/0001``.

    Splits: ``splits/*.txt`` if there; else, when all images lie in ``images/train``, ``images/val`` and ``images/test``
        (two of them are
    enough), those; else none, and ingest makes a seeded split by group. Samples in no list of ``splits/`` are left out.

    ``classes.txt`` has one class per line, in the order of the train ids, in one of these forms (``#`` starts a comment
    line)::

        road
        road, 7                     label id in the masks; default: the number of the class, from 0
        road, 128, 64, 128          colour
        road, 128, 64, 128, 7       both
        !ignore, 11                 what counts nowhere, in the same forms and as often as needed; default: id 255,
        unless a class has it

    ``classes.json`` says the same, a class may be just its name, and ``color``, ``id`` and ``ignore`` may be left out::

        {"classes": [{"name": "road", "color": [128, 64, 128], "id": 7}, "car"], "ignore": [255, {"color": [0, 0, 0]}]}

    Masks hold label ids as grey values or palette indices, or in RGB the colours of the classes file.
    """

    name: ClassVar[str] = "folder"
    parts: ClassVar[tuple[str, ...]] = ("images", "masks")

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        for part in self.parts:
            if not (self.root / part).is_dir():
                expected = ", ".join(f"{name}/" for name in self.parts)
                raise InputError(
                    f"dataset folder {self.root} has no folder {part}/, expected {expected} and classes.txt (layout"
                    f" {self.name!r})"
                )
        self._classes: Classes = read_classes(self.root)

    @property
    def labels(self) -> LabelMap:
        return self._classes.labels

    def samples(self) -> Iterable[Sample]:
        images, masks = self._images, self._masks()
        for split, sample_id in self._split_ids():
            yield Sample(
                sample_id,
                split,
                images[sample_id],
                masks.get(sample_id),
                self._groups.get(sample_id, sample_id),
                self._image_labels.get(sample_id),
            )

    def read_image(self, sample: Sample) -> np.ndarray:
        return read_image(self.root / sample.image)

    def read_source_mask(self, sample: Sample) -> np.ndarray:
        return read_mask(self.root / str(sample.mask), self._classes.colors)

    def _masks(self) -> dict[str, str]:
        """Sample id -> path of its mask, for all samples."""
        images, masks = self._images, self._files("masks")
        for there, other, kind in ((images, masks, "mask"), (masks, images, "image")):
            if alone := sorted(there.keys() - other.keys()):
                names = ", ".join(there[name] for name in alone[:5]) + (", ..." if len(alone) > 5 else "")
                raise InputError(
                    f"{len(alone)} files in {self.root} have no {kind}: {names}: add each {kind} under the same name or"
                    " remove the file"
                )
        return masks

    @cached_property
    def _images(self) -> dict[str, str]:
        images = self._files("images")
        if not images:
            raise InputError(f"{self.root / 'images'} holds no images, expected files ending in {' '.join(SUFFIXES)}")
        return images

    def _files(self, part: str) -> dict[str, str]:
        """Sample id -> path relative to the root, sorted by id."""
        found: dict[str, str] = {}
        for path in sorted((self.root / part).rglob("*")):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            sample_id = path.relative_to(self.root / part).with_suffix("").as_posix()
            relative = path.relative_to(self.root).as_posix()
            if sample_id in found:
                raise InputError(
                    f"{self.root / found[sample_id]} and {path.name} have the same name up to the ending, expected one"
                    " file per sample"
                )
            found[sample_id] = relative
        return found

    def _split_ids(self) -> Iterator[tuple[str | None, str]]:
        """(split, id) of each sample: lists, else sub-folders, else no splits."""
        lists = [split for split in SPLITS if (self.root / "splits" / f"{split}.txt").is_file()]
        if lists:
            for split in lists:
                yield from ((split, sample_id) for sample_id in self._read_list(split))
            return
        first = {sample_id.split("/")[0] for sample_id in self._images if "/" in sample_id}
        in_folders = len(first) > 1 and first <= set(SPLITS) and all("/" in sample_id for sample_id in self._images)
        order = (
            sorted(self._images, key=lambda sample_id: SPLITS.index(sample_id.split("/")[0]))
            if in_folders
            else self._images
        )
        for sample_id in order:
            yield (sample_id.split("/")[0] if in_folders else None), sample_id

    def _read_list(self, split: str) -> Iterator[str]:
        path = self.root / "splits" / f"{split}.txt"
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            name = line.strip()
            if not name:
                continue
            sample_id = name if name in self._images else Path(name).with_suffix("").as_posix()
            if sample_id not in self._images:
                raise InputError(
                    f"{path} names the sample {name!r}, which is not in {self.root / 'images'}: correct the list or add"
                    " the image"
                )
            yield sample_id

    @cached_property
    def _groups(self) -> dict[str, str]:
        return self._read_table("groups.csv", "group")

    @cached_property
    def _image_labels(self) -> dict[str, int]:
        labels = self._read_table("image_labels.csv", "label")
        if wrong := next(
            (f"{label!r} for {sample_id}" for sample_id, label in labels.items() if not label.isdecimal()), None
        ):
            raise InputError(
                f"{self.root / 'image_labels.csv'} has the label {wrong}, expected the number of a class, counted"
                " from 0"
            )
        return {sample_id: int(label) for sample_id, label in labels.items()}

    def _read_table(self, name: str, column: str) -> dict[str, str]:
        """Sample id -> value of ``column``, for all samples; empty without the file."""
        path = self.root / name
        if not path.is_file():
            return {}
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"id", column} <= set(rows.fieldnames or ()):
                raise InputError(f"{path} has the columns {rows.fieldnames}, expected id and {column}")
            values = {row["id"]: row[column] for row in rows}
        if missing := sorted(self._images.keys() - values.keys()):
            raise InputError(f"{path} has no {column} for {len(missing)} samples: {', '.join(missing[:5])}: add them")
        return values

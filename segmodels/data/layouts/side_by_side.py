"""Images and their masks in one folder, or in neighbouring ones: exports of Roboflow, Carvana, LGG, one's own."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.classes_file import Classes, Entry, classes_of, has_classes_file, read_classes
from segmodels.data.decoding import SUFFIXES
from segmodels.data.inferred_classes import inferred_classes
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.pairing import files_by_id, require_pairs
from segmodels.data.layouts.splits import read_table, split_ids
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

ROBOFLOW = "_classes.csv"
"""Roboflow's list of classes, one in the folder of each split."""

_ENDING = re.compile(r"[ _.-]masks?$", re.IGNORECASE)
_NUMBER = re.compile(r"(?<=mask|asks)[ _.-]\d+$", re.IGNORECASE)

_MASK = "[mM][aA][sS][kK]"
_PLACES = (f"*{_MASK}*.*", f"*/*{_MASK}*.*", f"*_{_MASK}[sS]/*")
LOOKED_AT = 100
"""Files of each of these places, by which ``layout: auto`` decides."""


@register_layout(
    "side_by_side",
    LayoutCard(
        "images and their masks in one folder, or in neighbouring ones, as Roboflow (Semantic Segmentation Masks) and"
        " Carvana have them",
        "this project",
        get="for Roboflow: export your project as Semantic Segmentation Masks",
    ),
)
class SideBySide(Layout):
    """Masks that end in ``_mask`` and lie beside their images, or in a folder that ends in ``_masks``.

    The sample id is the image's path without the ending. Folders of splits, classes without a list of classes,
    ``groups.csv`` and masks are as in layout ``folder``. Images of folders without masks are left out. Numbered masks
    of one image, ``0001_mask_1.png`` (BUSI), lie above each other where they are not 0.
    """

    marks = "images and masks side by side: 0001.jpg and 0001_mask.png, or train/0001.jpg and train_masks/0001_mask.gif"
    tree: ClassVar[str] = """\
0001.jpg                    any depth of folders; png jpg bmp tif gif webp pgm ppm
0001_mask.png               label ids, palette indices or colours; further ones: 0001_mask_1.png
train/0001.jpg              or a folder for each split, in it images and masks; likewise valid/ and test/
train/0001_mask.png         or train_masks/0001_mask.png, or train_masks/0001.png
train/_classes.csv          Roboflow: Pixel Value, Class; else classes.txt or classes.json beside train/, or none
groups.csv                  optional: header id,group; default: every sample its own group
"""

    @classmethod
    def fits(cls, root: Path) -> bool:
        found = (path for place in _PLACES for path in islice(root.glob(place), LOOKED_AT))
        names = (path.relative_to(root).with_suffix("").as_posix() for path in found if path.suffix.lower() in SUFFIXES)
        return any(
            (root / f"{image}{suffix}").is_file()
            for image in (_image_of(_NUMBER.sub("", name)) for name in names)
            if image is not None
            for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))
        )

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._images, self._masks = _parted(self.root)
        if not self._masks:
            raise InputError(
                f"dataset folder {self.root} is not organised as layout {self.name!r}, expected {self.marks}: check the"
                " path"
            )
        self._classes = _classes(self.root, [file for files in self._masks.values() for file in files])
        self.assumed_void = self._classes.assumed_void

    @property
    def labels(self) -> LabelMap:
        return self._classes.labels

    def samples(self) -> Iterable[Sample]:
        places = {PurePosixPath(name).parent for name in self._masks}
        images = {name: file for name, file in self._images.items() if PurePosixPath(name).parent in places}
        self.left_out = [file for name, file in self._images.items() if name not in images]
        require_pairs(self.root, images, {name: files[0] for name, files in self._masks.items()}, "mask")
        groups = read_table(self.root, "groups.csv", "group", images)
        members = list(split_ids(self.root, images))
        listed = {name for _, name in members}
        self.left_out += [file for name, file in images.items() if name not in listed]
        for split, name in members:
            yield Sample(name, split, images[name], tuple(self._masks[name]), groups.get(name, name))

    def read_image(self, sample: Sample) -> NDArray:
        return self.read_picture(sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        first, *further = sample.files
        ids = read_mask(self.root / first, self._classes.colors)
        for file in further:
            above = read_mask(self.root / file, self._classes.colors)
            if above.shape != ids.shape:
                raise InputError(f"{file} and {first} have different sizes, expected one size: replace one of them")
            ids = np.where(above != 0, above, ids)
        return Annotation.of_classes(encode_labels(self.labels, ids, first))


def _image_of(name: str) -> str | None:
    """Id of a mask's image, ``train/0001`` of ``train/0001_mask`` and ``train_masks/0001_mask``; None for no mask."""
    image = "/".join(_ENDING.sub("", part) for part in name.split("/"))
    return None if image == name else image


def _parted(root: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Sample id -> image, and sample id -> its masks. Raises InputError: an image has two masks that have no number."""
    images: dict[str, str] = {}
    masks: dict[str, list[str]] = {}
    numbered: dict[str, list[str]] = {}
    files = files_by_id(root, "")
    for name, file in files.items():
        image, plain = _image_of(name), _NUMBER.sub("", name)
        if plain != name and (whole := _image_of(plain)) in files:  # else a photo of the mask 1
            numbered.setdefault(str(whole), []).append(file)
        elif image is None:
            images[name] = file
        elif image in masks:
            raise InputError(
                f"{root / masks[image][0]} and {file} are masks of one image, expected one: remove the other"
            )
        else:
            masks[image] = [file]
    return images, {name: masks.get(name, []) + numbered.get(name, []) for name in (masks | numbered)}


def _classes(root: Path, masks: list[str]) -> Classes:
    if has_classes_file(root):
        return read_classes(root)
    tables = sorted(path for place in (ROBOFLOW, f"*/{ROBOFLOW}") for path in root.glob(place))
    if not tables:
        return inferred_classes(root, masks)
    first, *others = (_of_roboflow(path) for path in tables)
    for path, other in zip(tables[1:], others, strict=True):
        if other != first:
            raise InputError(f"{path} has other classes than {tables[0]}, expected the same: export the dataset again")
    try:
        return classes_of(first, None)
    except InputError as error:
        raise InputError(f"{tables[0]}: {error}") from None


def _of_roboflow(path: Path) -> list[Entry]:
    try:
        rows = [[field.strip() for field in row] for row in csv.reader(read_plain_text(path).splitlines()) if row]
        if [field.lower() for field in rows.pop(0)] != ["pixel value", "class"]:
            raise ValueError
        return [Entry(name, None, int(id)) for id, name in rows]
    except (ValueError, IndexError, csv.Error):
        raise InputError(
            f"{path} cannot be understood, expected lines 'Pixel Value, Class' and '0, background' as Roboflow exports"
            " Semantic Segmentation Masks: export it again"
        ) from None

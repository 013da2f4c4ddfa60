"""Images and their masks in one folder, or in neighbouring ones: exports of Roboflow, Carvana, LGG, one's own."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation
from segmodels.data.classes_file import Classes, Entry, classes_of, has_classes_file, read_classes
from segmodels.data.decoding import SUFFIXES
from segmodels.data.inferred_classes import inferred_classes
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.pairing import files_by_id, require_pairs
from segmodels.data.layouts.splits import groups_of, split_ids
from segmodels.data.sizes import require_one_size
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

ROBOFLOW = "_classes.csv"
"""Roboflow's list of classes, one in the folder of each split."""

_MASKS = re.compile(r"[ _.-]masks?$", re.IGNORECASE)
_OTHERS = re.compile(r"[ _.-]((?-i:L)|labels?|seg|segmentations?|gt|ground[ _]?truth|annotations?)$", re.IGNORECASE)
"""Endings of masks where no mask of the dataset ends in ``mask``; ``L`` is CamVid's."""
_PHOTOS = re.compile(r"[ _.-](images?|img|rgb|sat)$", re.IGNORECASE)
"""Endings of images, which their masks do not have: ``0001_image.png`` and ``0001_mask.png``."""
_NUMBER = re.compile(r"(?<=mask|asks)[ _.-]\d+$", re.IGNORECASE)
"""A number after ``mask`` or ``masks``. ``asks``, since Python's look-behind takes alternatives of one length only."""

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

    Where no mask of a dataset ends so, masks may end in ``_label``, ``_seg``, ``_segmentation``, ``_gt``,
    ``_ground_truth``, ``_annotation`` or ``_L`` (CamVid on Kaggle), if their image is there. Images may end in
    ``_image``, ``_img``, ``_rgb`` or ``_sat`` (DeepGlobe), and their folders in ``_images``: what comes before these
    endings is the same for an image and its mask. Numbered masks of one image, ``0001_mask_1.png`` (BUSI), lie above
    each other where they are not 0.

    The sample id is the image's path, without the ending that the masks lack. Folders of splits, lists of classes
    (``class_dict.csv``), classes without a list, ``groups.csv`` and masks are as in layout ``folder``. Images of
    folders without masks are left out.
    """

    marks = (
        "images and masks side by side: 0001.jpg and 0001_mask.png (or _label, _seg, _gt), or train/0001.jpg and"
        " train_masks/0001_mask.gif"
    )
    tree: ClassVar[str] = """\
0001.jpg                    any depth of folders; png jpg bmp tif gif webp pgm ppm
0001_mask.png               label ids, palette indices or colours; further ones: 0001_mask_1.png
train/0001.jpg              or a folder for each split, in it images and masks; likewise valid/ and test/
train/0001_mask.png         or train_masks/0001_mask.png, or train_masks/0001.png, or train_labels/0001_L.png
train/_classes.csv          Roboflow: Pixel Value, Class; else classes.txt or classes.json beside train/, or none
groups.csv                  optional: header id,group; default: a patient of TCGA, else every sample its own group
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

    @classmethod
    def resembles(cls, root: Path) -> bool:
        found = (path for place in ("*.*", "*/*.*") for path in root.glob(place) if path.suffix.lower() in SUFFIXES)
        images, masks, _ = _parted([path.relative_to(root).with_suffix("").as_posix() for path in found])
        return not images.keys().isdisjoint(masks)

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        files = files_by_id(self.root, "")
        images, masks, numbered = _parted(files)
        if twice := next((names for names in masks.values() if len(names) > 1), None):
            first, second = (files[name] for name in twice[:2])
            raise InputError(f"{self.root / first} and {second} are masks of one image, expected one: remove the other")
        self._images = {name: files[image] for name, image in images.items()}
        self._masks = {
            name: [files[mask] for mask in (*masks.get(name, ()), *numbered.get(name, ()))] for name in masks | numbered
        }
        if not self._masks:
            raise self.not_organised()
        self._classes = _classes(self.root, [file for files in self._masks.values() for file in files])
        self.assumed_void = self._classes.assumed_void

    @property
    def labels(self) -> LabelMap:
        return self._classes.labels

    def samples(self) -> Iterable[Sample]:
        places = {PurePosixPath(name).parent for name in self._masks}
        images = {name: file for name, file in self._images.items() if PurePosixPath(name).parent in places}
        self.left_out = [file for name, file in self._images.items() if name not in images]
        groups = groups_of(self.root, images)
        members = list(split_ids(self.root, images))
        listed = {name for _, name in members}
        require_pairs(self.root, images, {name: files[0] for name, files in self._masks.items()}, "mask", listed)
        self.left_out += [file for name, file in images.items() if name not in listed]
        for split, name in members:
            yield Sample(name, split, images[name], tuple(self._masks[name]), groups[name])

    def annotation(self, sample: Sample) -> Annotation | None:
        first, *further = sample.files
        ids = read_mask(self.root / first, self._classes.colors)
        for file in further:
            above = read_mask(self.root / file, self._classes.colors)
            require_one_size(file, above.shape, first, ids.shape)
            ids = np.where(above != 0, above, ids)
        return Annotation.of_classes(encode_labels(self.labels, ids, first))


def _without(ending: re.Pattern[str], name: str) -> str:
    """``train/0001`` of ``train/0001_mask`` and ``train_masks/0001_mask``."""
    return "/".join(ending.sub("", part) for part in name.split("/"))


def _image_of(name: str, ending: re.Pattern[str] = _MASKS) -> str | None:
    """Id of a mask's image; None for no mask."""
    image = _without(ending, name)
    return None if image == name else image


Names = dict[str, list[str]]


def _parted(files: Collection[str]) -> tuple[dict[str, str], Names, Names]:
    """Sample id -> its image, its masks that have no number, and its numbered ones, by the names of all files."""
    for ending in (_MASKS, _OTHERS):
        images, masks, numbered = _parted_by(files, ending)
        if not images.keys().isdisjoint(masks | numbered):
            return images, masks, numbered
    return _parted_by(files, _MASKS)


def _parted_by(files: Collection[str], ending: re.Pattern[str]) -> tuple[dict[str, str], Names, Names]:
    photos: list[str] = []
    masks: Names = {}
    numbered: Names = {}
    known = {*files, *(_without(_PHOTOS, name) for name in files)}
    for name in files:
        image, plain = _image_of(name, ending), _NUMBER.sub("", name)
        if plain != name and (whole := _image_of(plain, ending)) in known:  # else a photo of the mask 1
            numbered.setdefault(str(whole), []).append(name)
        elif image is None or (ending is _OTHERS and image not in known):
            photos.append(name)
        else:
            masks.setdefault(image, []).append(name)
    images: dict[str, str] = {}
    annotated = masks | numbered
    places = {PurePosixPath(name).parent for name in annotated}
    for name in photos:
        short = _without(_PHOTOS, name)
        taken = name in annotated or short in files or short in images
        images[name if taken or PurePosixPath(short).parent not in places else short] = name
    return images, masks, numbered


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

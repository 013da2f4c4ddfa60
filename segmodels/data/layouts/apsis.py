"""Portraits of APSIS (Shen, Eurographics 2016; EG1800): a person and the background."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.published import Published
from segmodels.data.layouts.splits import SPLITS
from segmodels.data.matlab import matlab_variable
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

IMAGES = "images_data_crop"


@register_layout(
    "apsis",
    LayoutCard(
        "portraits of APSIS (EG1800)",
        "http://xiaoyongshen.me/webpage_portrait/index.html",
        "paper: train 1500, test 300; EG1800: train 1447, val 289",
        "research only",
        "http://xiaoyongshen.me/webpage_portrait/index.html; many of its photographs are gone from Flickr",
    ),
)
class Apsis(Published):
    """Portraits, with masks and lists as Matlab files, or as PNG and text files (EG1800).

    Samples of the lists whose photograph is missing are left out.
    """

    places = ("", "EG1800/", "data/", "data/EG1800/", "EG1800/EG1800/")
    marks = "images_data_crop/ and images_mask/ (Matlab files), or GT_png/ (EG1800)"
    tree: ClassVar[str] = """\
images_data_crop/00001.jpg       600x800 pixels; images_data/ and images_tracker/ beside it are not read
images_mask/00001_mask.mat       variable mask, 0 and 1
trainlist.mat, testlist.mat      variables trainlist and testlist: numbers of images
GT_png/00001_mask.png            or EG1800: above 0 the person
eg1800_train.txt                 with eg1800_val.txt, or train.txt and val.txt: a file name per line
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return (folder / IMAGES).is_dir() and any((folder / part).is_dir() for part in ("images_mask", "GT_png"))

    @classmethod
    def published(cls) -> LabelMap | None:
        return LabelMap(("background", "portrait"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1})

    def samples(self) -> Iterable[Sample]:
        masks = self.files("images_mask", (".mat",)) | self.files("GT_png", (".png",))
        masks = {name.removesuffix("_mask"): file for name, file in masks.items()}
        images = self.files(IMAGES)
        pairs = {name: (image, mask) for name, image, mask in self.paired(images, masks)}
        lists: dict[str | None, list[str]] = {
            split: names for split in SPLITS if (names := self._list(split)) is not None
        }
        for split, names in (lists or {None: list(pairs)}).items():
            self.left_out += [f"{name} of the list {split}" for name in names if name not in images | masks]
            for name in names:
                if name in pairs:
                    image, mask = pairs[name]
                    yield Sample(name, split, image, (mask,), group=name)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        if mask.endswith(".mat"):
            inside = matlab_variable(self.root / mask, "mask")
            if inside.ndim != 2 or inside.dtype.kind not in "biuf":
                kind = f"{inside.ndim} axes of {inside.dtype}"
                raise InputError(f"{mask} holds a mask of {kind}, expected 2 axes of numbers: replace it")
        else:
            inside = read_mask(self.root / mask)
        return Annotation.of_classes(self.labels.encode((inside > 0).astype(np.uint8)))

    def _list(self, split: str) -> list[str] | None:
        """Names of the images of a split, None without a list."""
        folder = self.root / self.top
        matlab = folder / f"{split}list.mat"
        if matlab.is_file():
            return [f"{int(number):05}" for number in np.ravel(matlab_variable(matlab, f"{split}list"))]
        texts = (f"eg1800_{split}.txt", f"EG1800_{split}.txt", f"{split}.txt")
        path = next((folder / name for name in texts if (folder / name).is_file()), None)
        return None if path is None else [Path(line.split()[0]).stem.removesuffix("_mask") for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    return [line for line in read_plain_text(path).splitlines() if line.strip()]

"""PASCAL VOC 2012 segmentation (Everingham, IJCV 111, 2015): 20 classes and background, objects with void borders."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation, Segment
from segmodels.checks import shown
from segmodels.data.classes_file import distinct_colors, has_classes_file
from segmodels.data.decoding import Color
from segmodels.data.folder_files import composed
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Archive, LayoutCard, Sample, register_layout
from segmodels.data.layouts.id_maps import one_layer
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published, colors_of
from segmodels.data.layouts.splits import SPLITS
from segmodels.data.object_maps import classes_under
from segmodels.data.sizes import require_one_size
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

VOID = 255
OWN_CLASSES = ("labelmap.txt", "class_names.txt")
"""Files of exports in the same folders that have classes of their own."""

NUMBERS = {color: number for number, color in enumerate(distinct_colors(256))}
"""Colour -> number of an object, in maps that were converted to RGB."""
ARCHIVE = Archive(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    stated="torchvision, datasets/voc.py",
)


@register_layout(
    "voc2012",
    LayoutCard(
        "PASCAL VOC 2012, classes and objects",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "train 1464, val 1449; test 1456 without public masks",
        "photographs under the terms of Flickr; annotations for research",
        archives=(ARCHIVE,),
    ),
)
class Voc2012(Published):
    """PASCAL VOC 2012, and VOC 2007 in the same folders.

    Splits are the lists ``train.txt`` and ``val.txt`` of ``ImageSets/Segmentation`` (``test.txt`` too where its images
    have masks), else ``trainval.txt``, else there are none and every image with a mask is a sample. Masks hold class
    ids as palette indices; void, 255, counts nowhere. Masks converted to RGB are read by VOC's colours. An object of
    ``SegmentationObject`` has the countable class that most of its pixels have. Without that folder there are no
    objects.
    """

    table = "voc2012"
    places: ClassVar[tuple[str, ...]] = (
        "",
        "VOCdevkit/VOC2012/",
        "VOC2012/",
        "VOCtrainval_11-May-2012/VOCdevkit/VOC2012/",
        "VOCdevkit/VOC2007/",
    )
    marks = "JPEGImages/ and SegmentationClass/, at the top or in VOCdevkit/VOC2012/"
    tree: ClassVar[str] = """\
VOCdevkit/VOC2012/
  JPEGImages/2007_000032.jpg
  SegmentationClass/2007_000032.png      class ids as palette indices, 255 void
  SegmentationObject/2007_000032.png     optional: numbers of objects, 255 void
  ImageSets/Segmentation/train.txt       with val.txt: one id per line
"""
    masks: ClassVar[str] = "SegmentationClass"
    lists: ClassVar[tuple[str, ...]] = ("ImageSets/Segmentation/{split}.txt",)
    """Where the list of a split may lie."""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return cls.has_masks(folder) and not cls.has_own_classes(folder)  # voc_export

    @classmethod
    def has_own_classes(cls, folder: Path) -> bool:
        """Whether a file names the classes."""
        return has_classes_file(folder) or any((folder / name).is_file() for name in OWN_CLASSES)

    @classmethod
    def has_masks(cls, folder: Path) -> bool:
        """Whether the folders of images and masks are there."""
        return (folder / "JPEGImages").is_dir() and (folder / cls.masks).is_dir()

    @cached_property
    def labels(self) -> LabelMap:
        labels = super().labels
        return labels if self._objects else replace(labels, things=frozenset())

    @property
    def _colors(self) -> Mapping[Color, int]:
        """Colour -> label id, in masks that were converted to RGB."""
        return colors_of(self.table)

    @cached_property
    def _objects(self) -> dict[str, str]:
        return self.files("SegmentationObject")

    def samples(self) -> Iterable[Sample]:
        pairs = self.paired(self.files("JPEGImages"), self.files(self.masks))
        self.left_out = [file for file in self.left_out if f"/{self.masks}/" in f"/{file}"]  # most images have no mask
        for split, name, image, mask in self.listed(pairs, self._splits([name for name, _, _ in pairs])):
            objects = (self._objects[name],) if name in self._objects else ()
            yield Sample(name, split, image, (mask, *objects), group=name)

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, *objects = sample.files
        classes = encode_labels(self.labels, read_mask(self.root / mask, self._colors), mask)
        annotation = Annotation.of_classes(classes)
        if not objects:
            return annotation
        ids = read_mask(self.root / objects[0], NUMBERS)
        require_one_size(objects[0], ids.shape, mask, classes.shape)
        ids = np.where(ids == VOID, 0, ids)
        under = classes_under(ids.astype(np.uint16), classes, self.labels.things)
        rows = [Segment(id, label) for id, label in sorted(under.items()) if label is not None]
        layers, segments = one_layer(ids, rows)
        return replace(annotation, layers=layers, segments=segments, empty=len(under) - len(rows))

    def _splits(self, annotated: list[str]) -> Iterable[tuple[str | None, list[str]]]:
        known = set(annotated)
        lists = {split: names for split in SPLITS if (names := self._list(split, known)) is not None}
        if not known.intersection(lists.get("test", ())):
            lists.pop("test", None)  # published without masks
        if lists:
            return list(lists.items())
        return [(None, annotated if (both := self._list("trainval", known)) is None else both)]

    def _list(self, split: str, known: Collection[str]) -> list[str] | None:
        """The ids of a split, None without a list of it."""
        for place in self.lists:
            path = self.root / self.top / place.format(split=split)
            if path.is_file():
                lines = (composed(line.strip()) for line in read_plain_text(path).splitlines())
                return [_listed_id(path, line, known) for line in lines if line]
        return None


def _listed_id(path: Path, line: str, known: Collection[str]) -> str:
    """The id that a line names: the whole line, which may hold blanks and dots, else its first word; each may be a path
    with an ending.

    Raises:
        InputError: the second word is the path of a mask that has another name.
    """
    word, *rest = line.split()
    mask = rest[0] if len(rest) == 1 and "/" in rest[0] else word
    if Path(word).stem in known and Path(mask).stem != Path(word).stem:
        raise InputError(
            f"{path} names the mask {shown(mask)} for {word}, but the mask of the image's name is read: correct the"
            " list"
        )
    return next((name for name in (line, Path(line).stem, word, Path(word).stem) if name in known), line)


@register_layout(
    "voc2012_aug",
    LayoutCard(
        "PASCAL VOC 2012 with the masks of SBD, 10,582 for training",
        "Hariharan, ICCV 2011; https://github.com/DrSleep/tensorflow-deeplab-resnet (SegmentationClassAug)",
        "train 10582, val 1449",
        "photographs under the terms of Flickr; annotations for research",
        "`python -m components fetch voc2012`; put SegmentationClassAug/ and the list trainaug.txt, which no public"
        " address has, beside its files",
    ),
)
class Voc2012Aug(Voc2012):
    """PASCAL VOC 2012 with the further masks of SBD: grey PNG, without objects. Layout ``voc2012_sbd`` reads SBD's own
    Matlab files, with objects.
    """

    marks = "JPEGImages/ and SegmentationClassAug/, at the top or in VOCdevkit/VOC2012/"
    masks: ClassVar[str] = "SegmentationClassAug"
    lists: ClassVar[tuple[str, ...]] = (
        "ImageSets/Segmentation/{split}aug.txt",
        "ImageSets/Segmentation/{split}_aug.txt",
        "ImageSets/SegmentationAug/{split}_aug.txt",
        "ImageSets/SegmentationAug/{split}.txt",
        "ImageSets/Segmentation/{split}.txt",
    )
    tree: ClassVar[str] = """\
VOCdevkit/VOC2012/
  JPEGImages/2007_000032.jpg
  SegmentationClassAug/2007_000032.png          grey masks of class ids, 255 void
  ImageSets/Segmentation/trainaug.txt           or train_aug.txt, or ImageSets/SegmentationAug/train_aug.txt
  ImageSets/Segmentation/val.txt
"""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """With the original masks beside these, only ``voc2012``."""
        place = cls.place(root)
        return place is not None and not Voc2012.begins(root / place)

    @cached_property
    def _objects(self) -> dict[str, str]:
        return {}

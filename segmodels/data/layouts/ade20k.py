"""ADE20K (Zhou, CVPR 2017), as the scene parsing benchmark and the Places challenge of 2017 publish it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.decoding import read_pixels
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Archive, LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_json import with_background
from segmodels.data.layouts.id_maps import one_layer, values_in
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published, read_label_table
from segmodels.data.sizes import require_one_size
from segmodels.errors import InputError
from segmodels.labels import LabelMap

SPLITS = {"training": "train", "validation": "val"}
OBJECTS = "annotations_instance"
PER_CLASS = 256
"""Number of an object: class times this, plus its number in the file."""

LICENCE = "annotations BSD 3-clause; images for non-commercial research and education"
COUNTS = "train 20210, val 2000; test 3352 without public masks"


@register_layout(
    "ade20k",
    LayoutCard(
        "ADE20K scene parsing, 150 classes",
        "http://sceneparsing.csail.mit.edu",
        COUNTS,
        LICENCE,
        archives=(
            Archive(
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                size=967382037,
                sha256="7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
                stated="tensorflow/datasets, url_checksums/ade20k.txt",
            ),
        ),
    ),
)
class Ade20k(Published):
    """ADE20K scene parsing. The value 0, other objects and unlabelled pixels, counts nowhere; class 1, wall, has the
    train id 0. With ``annotations_instance/`` of the Places challenge 100 classes are countable and have objects.
    """

    table = "ade20k"
    places = ("", "ADEChallengeData2016/")
    marks = "images/ and annotations/, in them training/ or validation/ with files such as ADE_train_00000001.jpg"
    tree: ClassVar[str] = """\
images/training/ADE_train_00000001.jpg                    likewise validation/
annotations/training/ADE_train_00000001.png               grey: 0 unlabelled, 1..150 classes
annotations_instance/training/ADE_train_00000001.png      optional: R class of 1..100, G number of the object
"""
    masks: ClassVar[str] = "annotations"

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return any((folder / "images" / split).is_dir() and (folder / cls.masks / split).is_dir() for split in SPLITS)

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Not for one's own data in folders of these names, whose ids may mean anything."""
        place = cls.place(root)
        return place is not None and any((root / place / "images").glob("*/ADE_*"))

    @cached_property
    def labels(self) -> LabelMap:
        labels = super().labels
        return labels if self._objects else replace(labels, things=frozenset())

    @cached_property
    def _objects(self) -> dict[str, str]:
        return self.files(OBJECTS, (".png",))

    def samples(self) -> Iterable[Sample]:
        images, masks = self.files("images"), self.files(self.masks, (".png",))
        for name, image, mask in self.paired(images, masks):
            folder, _, sample = name.partition("/")
            if folder in SPLITS:
                objects = (self._objects[name],) if name in self._objects and self.masks != OBJECTS else ()
                yield Sample(sample, SPLITS[folder], image, (mask, *objects), group=sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, *objects = sample.files
        annotation = Annotation.of_classes(encode_labels(self.labels, read_mask(self.root / mask), mask))
        if not objects:
            return annotation
        ids, known = _numbered(self.root, objects[0], sorted(self.labels.things))
        require_one_size(objects[0], ids.shape, mask, annotation.size)
        layers, segments = one_layer(ids, known)
        return replace(annotation, layers=layers, segments=segments)


@register_layout(
    "ade20k_instances",
    LayoutCard(
        "ADE20K of the Places challenge, objects of 100 classes",
        "https://github.com/CSAILVision/placeschallenge",
        COUNTS,
        LICENCE,
        "unpack images.tar and annotations_instance.tar of https://github.com/CSAILVision/placeschallenge",
    ),
)
class Ade20kInstances(Ade20k):
    """ADE20K's objects alone. Class 0 is the background."""

    marks = "images/ and annotations_instance/, in them training/ or validation/, without annotations/"
    masks = OBJECTS
    tree: ClassVar[str] = """\
images/training/ADE_train_00000001.jpg                    likewise validation/
annotations_instance/training/ADE_train_00000001.png      RGB: R class of 1..100, G number of the object
"""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """With ``annotations/`` beside it, only ``ade20k``."""
        return super().fits(root) and not Ade20k.fits(root)

    @classmethod
    def published(cls) -> LabelMap | None:
        scenes = read_label_table(cls.table)
        things = sorted(scenes.things)
        names, colors = [scenes.classes[train] for train in things], [scenes.palette[train] for train in things]
        return with_background(names, colors, {number + 1: number for number in range(len(things))})

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        ids, known = _numbered(self.root, mask, range(1, self.labels.num_classes))
        annotation = Annotation.of_classes(self.labels.encode(ids // PER_CLASS))
        layers, segments = one_layer(ids, known)
        return replace(annotation, layers=layers, segments=segments)


def _numbered(root: Path, file: str, trains: Sequence[int]) -> tuple[NDArray[np.int32], list[Segment]]:
    """Numbers ``(H, W)`` of the objects in a map, and a row for each.

    Args:
        trains: train ids of the classes 1, 2, ...
    """
    pixels = read_pixels(root / file).astype(np.int32)
    if pixels.shape[-1] != 3:
        raise InputError(
            f"{file} has {pixels.shape[-1]} channels, expected RGB (class, number of the object, 0): replace it"
        )
    ids = np.where(pixels[..., 0] > 0, pixels[..., 0] * PER_CLASS + pixels[..., 1], 0)
    values = [value for value in values_in(ids) if value]
    if unknown := sorted({value // PER_CLASS for value in values if value // PER_CLASS > len(trains)}):
        raise InputError(f"{file} holds the classes {unknown[:5]}, expected 1 to {len(trains)}: replace it")
    return ids, [Segment(value, trains[value // PER_CLASS - 1]) for value in values]

"""Cityscapes (Cordts, CVPR 2016): 19 classes of street scenes, with objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.decoding import SUFFIXES
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.cityscapes_polygons import PER_CLASS, draw_polygons
from segmodels.data.layouts.id_maps import one_layer, values_in
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published
from segmodels.data.sizes import require_one_size
from segmodels.labels import LabelMap

IMAGE = "_leftImg8bit"
LABELS, TRAIN_IDS, INSTANCES, POLYGONS = "labelIds", "labelTrainIds", "instanceIds", "polygons"

HOMES = ("", "leftImg8bit_trainvaltest/", "leftImg8bit_trainextra/", "gtFine_trainvaltest/", "gtCoarse/")
"""Folders that hold images or annotations: archives unpacked side by side, or each into a folder of its own name."""

LICENCE = "research and teaching only, no redistribution: https://www.cityscapes-dataset.com/license/"
GET = "register at https://www.cityscapes-dataset.com, then unpack leftImg8bit_trainvaltest.zip and {} into one folder"


@register_layout(
    "cityscapes",
    LayoutCard(
        "Cityscapes, fine annotations",
        "https://www.cityscapes-dataset.com",
        "train 2975, val 500, test 1525 (annotated as void only: measure on val)",
        LICENCE,
        GET.format("gtFine_trainvaltest.zip"),
    ),
)
class Cityscapes(Published):
    """Cityscapes.

    Splits are the folders; a sample's group is its city. The class map comes from ``labelIds``, without it from
    ``labelTrainIds``, without both from ``instanceIds``, without all of them from ``polygons``, drawn as Cityscapes'
    own scripts draw them. Objects come from ``instanceIds`` or ``polygons``; a region of a countable class without
    numbers is a crowd. Images without annotation, and the reverse, are left out.
    """

    table = "cityscapes"
    marks = "leftImg8bit/ and gtFine/, in them a folder for each split and city"
    tree: ClassVar[str] = """\
leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png         likewise val/ and test/
gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png          label ids 0..33
gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png     or these: train ids 0..18, void 255 or 19
gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png       optional: 16 bits, label id * 1000 + number
gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json         read where there are none of these PNG files
"""
    truth: ClassVar[str] = "gtFine"

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return all(any((folder / home / part).is_dir() for home in HOMES) for part in ("leftImg8bit", cls.truth))

    @cached_property
    def labels(self) -> LabelMap:
        labels = super().labels
        objects = self._files[INSTANCES] or self._files[POLYGONS]
        return labels if objects else replace(labels, things=frozenset())

    @cached_property
    def _files(self) -> dict[str, dict[str, str]]:
        """Kind of file -> ``split/city/frame`` -> path; polygons only of frames without a PNG file."""
        found: dict[str, dict[str, str]] = {LABELS: {}, TRAIN_IDS: {}, INSTANCES: {}, POLYGONS: {}}
        for name, file in self._files_of(self.truth, (".png", ".json")).items():
            frame, _, kind = name.rpartition("_")
            if kind in found and frame.endswith(f"_{self.truth}"):
                found[kind][frame.removesuffix(f"_{self.truth}")] = file
        drawn = found[LABELS].keys() | found[TRAIN_IDS].keys() | found[INSTANCES].keys()
        return found | {POLYGONS: {name: file for name, file in found[POLYGONS].items() if name not in drawn}}

    def samples(self) -> Iterable[Sample]:
        pictures = self._files_of("leftImg8bit", SUFFIXES).items()
        images = {name.removesuffix(IMAGE): image for name, image in pictures if name.endswith(IMAGE)}
        kinds = self._files
        masks = kinds[POLYGONS] | kinds[INSTANCES] | kinds[TRAIN_IDS] | kinds[LABELS]
        for name, image, mask in self.paired(images, masks):
            split, _, frame = name.partition("/")
            objects = (kinds[INSTANCES][name],) if name in kinds[INSTANCES] and mask != kinds[INSTANCES][name] else ()
            yield Sample(frame, split, image, (mask, *objects), group=frame.split("/")[0])

    def _files_of(self, part: str, suffixes: Sequence[str]) -> dict[str, str]:
        """Path below the folders ``part`` without the ending -> path relative to the root."""
        return {name: file for home in HOMES for name, file in self.files(f"{home}{part}", suffixes).items()}

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, *objects = sample.files
        polygons = mask.endswith(".json")
        stored = draw_polygons(self.root / mask) if polygons else read_mask(self.root / mask).astype(np.int64)
        ids = stored
        if polygons or mask.endswith(f"{INSTANCES}.png"):
            objects, ids = [mask], np.where(stored < PER_CLASS, stored, stored // PER_CLASS)
        labels = self._train_ids if mask.endswith(f"{TRAIN_IDS}.png") else self.labels
        annotation = Annotation.of_classes(encode_labels(labels, ids, mask))
        if not objects:
            return annotation
        numbers = stored if objects[0] == mask else read_mask(self.root / objects[0]).astype(np.int64)
        require_one_size(objects[0], numbers.shape, mask, annotation.size)
        layers, segments = one_layer(numbers, self._rows(numbers))
        return replace(annotation, layers=layers, segments=segments)

    def _rows(self, numbers: NDArray) -> Iterable[Segment]:
        for value in values_in(numbers):
            label = self.labels.ids.get(value if value < PER_CLASS else value // PER_CLASS)
            if label in self.labels.things:
                yield Segment(value, label, crowd=value < PER_CLASS)

    @property
    def _train_ids(self) -> LabelMap:
        """For masks that hold train ids already; void is 255, in files of some converters the number after the last."""
        labels = self.labels
        void = dict.fromkeys((labels.num_classes, labels.ignore_index), labels.ignore_index)
        return replace(labels, ids={train: train for train in range(labels.num_classes)} | void)


@register_layout(
    "cityscapes_coarse",
    LayoutCard(
        "Cityscapes, coarse annotations",
        "https://www.cityscapes-dataset.com",
        "train 2975, train_extra 19998, val 500",
        LICENCE,
        GET.format("leftImg8bit_trainextra.zip and gtCoarse.zip"),
    ),
)
class CityscapesCoarse(Cityscapes):
    """Cityscapes with its coarse polygons; the split ``train_extra`` has no fine ones."""

    marks = "leftImg8bit/ and gtCoarse/, without gtFine/"
    truth: ClassVar[str] = "gtCoarse"
    tree: ClassVar[str] = """\
leftImg8bit/train_extra/augsburg/augsburg_000000_000000_leftImg8bit.png           likewise train/ and val/
gtCoarse/train_extra/augsburg/augsburg_000000_000000_gtCoarse_labelIds.png        label ids 0..33
gtCoarse/train_extra/augsburg/augsburg_000000_000000_gtCoarse_instanceIds.png     optional
"""

    @classmethod
    def fits(cls, root: Path) -> bool:
        """With ``gtFine/`` beside it, only ``cityscapes``."""
        return super().fits(root) and not Cityscapes.fits(root)

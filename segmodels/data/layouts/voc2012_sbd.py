"""PASCAL VOC 2012 and the Semantic Boundaries Dataset side by side: the 10,582 images for training of "VOC aug"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.sbd import Sbd
from segmodels.data.layouts.voc2012 import Voc2012
from segmodels.errors import InputError
from segmodels.labels import LabelMap


class _SbdBesideVoc(Sbd):
    places: ClassVar[tuple[str, ...]] = tuple(
        f"{home}{place}"
        for home in ("", "VOCdevkit/")
        for place in ("benchmark_RELEASE/dataset/", "VOCaug/dataset/", "dataset/", "sbd/", "SBD/", "")
    )


@register_layout(
    "voc2012_sbd",
    LayoutCard(
        "PASCAL VOC 2012 and SBD, 10,582 for training, classes and objects",
        "Hariharan, ICCV 2011",
        "train 10582, val 1449",
        "photographs under the terms of Flickr; annotations for research",
        "`python -m components fetch voc2012` and `python -m components fetch sbd`, then move both into one folder",
    ),
)
class Voc2012Sbd(Layout):
    """PASCAL VOC 2012 with SBD's Matlab files beside it, which ``voc2012_aug`` reads as PNG files.

    Training takes VOC's list train and all images of SBD that VOC's val does not have; val is VOC's. Where both
    annotate an image, VOC's masks are read.
    """

    marks = "the files of voc2012 and, beside them, those of sbd"
    tree: ClassVar[str] = """\
VOCdevkit/VOC2012/               layout voc2012
benchmark_RELEASE/dataset/       layout sbd; or VOCdevkit/VOCaug/dataset/, dataset/ or sbd/
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._voc, self._sbd = Voc2012(root), _SbdBesideVoc(root)

    @classmethod
    def fits(cls, root: Path) -> bool:
        return Voc2012.fits(root) and _SbdBesideVoc.fits(root)

    @classmethod
    def published(cls) -> LabelMap | None:
        return Voc2012.published()

    @cached_property
    def labels(self) -> LabelMap:
        objects = any(len(sample.files) > 1 for sample in self.samples())
        return self._sbd.labels if objects else replace(self._sbd.labels, things=frozenset())

    def samples(self) -> Iterable[Sample]:
        own = list(self._voc.samples())
        if {sample.split for sample in own} != {"train", "val"}:
            raise InputError(
                f"dataset folder {self.root} lacks ImageSets/Segmentation/train.txt or val.txt of VOC 2012, expected"
                f" both (layout {self.name!r}): add them"
            )
        taken = {sample.id for sample in own}
        further = [replace(one, split="train") for one in self._sbd.samples() if one.id not in taken]
        self.left_out = [*self._voc.left_out, *self._sbd.left_out]
        yield from (sample for sample in own if sample.split == "train")
        yield from further
        yield from (sample for sample in own if sample.split == "val")

    def read_image(self, sample: Sample) -> NDArray:
        return self._of(sample).read_image(sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        return self._of(sample).annotation(sample)

    def _of(self, sample: Sample) -> Layout:
        return self._sbd if sample.files[0].endswith(".mat") else self._voc

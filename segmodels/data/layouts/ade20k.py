"""ADE20K (Zhou, CVPR 2017), as the scene parsing benchmark publishes it: 150 classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from segmodels.annotations import Annotation
from segmodels.data.decoding import read_mask
from segmodels.data.layouts.base import Archive, LayoutCard, Sample, register_layout
from segmodels.data.layouts.pairing import encode_labels
from segmodels.data.layouts.published import Published

SPLITS = {"training": "train", "validation": "val"}


@register_layout(
    "ade20k",
    LayoutCard(
        "ADE20K scene parsing, 150 classes",
        "http://sceneparsing.csail.mit.edu",
        "train 20210, val 2000; test 3352 without public masks",
        "annotations BSD 3-clause; images for non-commercial research and education",
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
    train id 0.
    """

    table = "ade20k"
    places = ("", "ADEChallengeData2016/")
    marks = "images/ and annotations/, in them training/ or validation/ (ADEChallengeData2016)"
    tree: ClassVar[str] = """\
images/training/ADE_train_00000001.jpg          likewise validation/
annotations/training/ADE_train_00000001.png     grey: 0 unlabelled, 1..150 classes
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return any(
            (folder / "images" / split).is_dir() and (folder / "annotations" / split).is_dir() for split in SPLITS
        )

    def samples(self) -> Iterable[Sample]:
        images, masks = self.files("images"), self.files("annotations", (".png",))
        for name, image, mask in self.paired(images, masks):
            folder, _, sample = name.partition("/")
            if folder in SPLITS:
                yield Sample(sample, SPLITS[folder], image, (mask,), group=sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        return Annotation.of_classes(encode_labels(self.labels, read_mask(self.root / mask), mask))

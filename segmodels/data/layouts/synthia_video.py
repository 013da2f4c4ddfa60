"""The video sequences of SYNTHIA (Ros, CVPR 2016), SYNTHIA-SF (Hernandez-Juarez, BMVC 2017) and SYNTHIA-AL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation
from segmodels.data.decoding import read_pixels
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published, colors_of
from segmodels.data.layouts.splits import published_split
from segmodels.data.layouts.synthia import LICENCE, SOURCE, Synthia

FURTHER_COLORS = {(119, 11, 31): 19}
"""Colour -> label id: bicycle, in some copies of SYNTHIA-SF."""


@register_layout(
    "synthia_seqs",
    LayoutCard(
        "SYNTHIA's video sequences, 13 classes",
        SOURCE,
        "about 200,000 of 1280x760 pixels, no splits",
        LICENCE,
        f"download sequences (SYNTHIA-SEQS-01-DAWN, ...) from {SOURCE} and unpack them into one folder",
    ),
)
class SynthiaSeqs(Synthia):
    """SYNTHIA-SEQS: frames of two cameras that look in four directions. Labels are as in ``synthia``, with other ids
    and colours of the classes.

    Sequences of one number show the same drive in other weather and are one group; in a folder with a single sequence
    each direction is one.
    """

    table = "synthia_seqs"
    places: ClassVar[tuple[str, ...]] = ("",)
    marks = "RGB/Stereo_Left/ and GT/LABELS/Stereo_Left/, at the top or in folders such as SYNTHIA-SEQS-01-DAWN/"
    tree: ClassVar[str] = """\
SYNTHIA-SEQS-01-DAWN/                            once or more often; or its content at the top
  RGB/Stereo_Left/Omni_F/000000.png              likewise Stereo_Right/ and Omni_B/, Omni_L/, Omni_R/
  GT/LABELS/Stereo_Left/Omni_F/000000.png        16 bits, three channels: class, number of the object, 0
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return any(any(folder.glob(f"{place}GT/LABELS/Stereo_*")) for place in ("", "*/"))

    def samples(self) -> Iterable[Sample]:
        files = self.files("")
        images = {name.replace("RGB/", "", 1): file for name, file in files.items() if "RGB/Stereo_" in name}
        masks = {name.replace("GT/LABELS/", "", 1): file for name, file in files.items() if "GT/LABELS/Stereo_" in name}
        for name, image, mask in self.paired(images, masks):
            sequence = name.partition("Stereo_")[0].rstrip("/")
            group = "-".join(sequence.split("-")[:3]) or name.split("/")[1]
            yield Sample(name, None, image, (mask,), group=group)


@register_layout(
    "synthia_sf",
    LayoutCard(
        "SYNTHIA-SF, 22 classes",
        SOURCE,
        "2224 of 1920x1080 pixels, no splits",
        LICENCE,
        f"download SYNTHIA-SF from {SOURCE} and unpack it",
    ),
)
class SynthiaSf(Published):
    """SYNTHIA-SF: six sequences, each a group. Red is the class, 0 void; masks in the classes' colours are read too."""

    table = "synthia_sf"
    places = ("", "SYNTHIA-SF/")
    marks = "RGBLeft/ and GTLeft/, at the top or in SEQ1/, SEQ2/, ... (SYNTHIA-SF)"
    tree: ClassVar[str] = """\
SYNTHIA-SF/SEQ1/RGBLeft/0000000.png      likewise RGBRight/, and SEQ2/ to SEQ6/
SYNTHIA-SF/SEQ1/GTLeft/0000000.png       likewise GTRight/: red is the class
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return any(
            any(folder.glob(f"{place}GTLeft")) and any(folder.glob(f"{place}RGBLeft")) for place in ("", "SEQ*/")
        )

    def samples(self) -> Iterable[Sample]:
        for name, image, mask in self.paired(*_sides(self.files(""), ("RGB", "GT"), ("Left/", "Right/"))):
            yield Sample(name, None, image, (mask,), group=name.split("/")[0])

    def annotation(self, sample: Sample) -> Annotation | None:
        return _of_colors(self, sample)


@register_layout(
    "synthia_al",
    LayoutCard(
        "SYNTHIA-AL, 13 classes",
        SOURCE,
        "train 192950, test 91750 of 640x480 pixels",
        LICENCE,
        f"download SYNTHIA-AL from {SOURCE} and unpack it",
    ),
)
class SynthiaAl(Published):
    """SYNTHIA-AL (Zolfaghari Bengar, ICCVW 2019): masks in the classes' colours. A group is a sequence."""

    table = "synthia_al"
    places = ("", "SYNTHIA-AL/")
    marks = "RGB/ and SemSeg/, at the top or in folders such as train/SEQUENCE/DATE/ (SYNTHIA-AL)"
    tree: ClassVar[str] = """\
train/SEQUENCE/DATE/RGB/000000.png          likewise test/
train/SEQUENCE/DATE/SemSeg/000000.png       the classes' colours
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        homes = ("", "*/*/", "train/*/*/", "test/*/*/")
        return any(all(any(folder.glob(f"{home}{part}")) for part in ("RGB", "SemSeg")) for home in homes)

    def samples(self) -> Iterable[Sample]:
        for name, image, mask in self.paired(*_sides(self.files(""), ("RGB", "SemSeg"), ("/",))):
            split, _, rest = name.partition("/")
            known = published_split(split)
            yield Sample(name, known, image, (mask,), group=rest.partition("/")[0] if known else name)

    def annotation(self, sample: Sample) -> Annotation | None:
        return _of_colors(self, sample)


def _sides(
    files: Mapping[str, str], parts: tuple[str, str], ends: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks by their paths without the name of the folder that tells them apart, such as ``RGBLeft/``."""
    found: tuple[dict[str, str], dict[str, str]] = {}, {}
    for name, file in files.items():
        for part, side in zip(parts, found, strict=True):
            if any(f"/{part}{end}" in f"/{name}" for end in ends):
                side[f"/{name}".replace(f"/{part}", "/", 1).strip("/").replace("//", "/")] = file
    return found


def _of_colors(layout: Published, sample: Sample) -> Annotation:
    """Masks hold the classes' colours, or else their ids in red."""
    (mask,) = sample.files
    pixels = read_pixels(layout.root / mask).astype(np.int32)
    ids = pixels[..., 0]
    if pixels.shape[-1] == 3:
        packed = pixels @ np.array([65536, 256, 1], np.int32)
        values, places = np.unique(packed, return_inverse=True)
        colors = FURTHER_COLORS | colors_of(layout.table)
        known = {red << 16 | green << 8 | blue: id for (red, green, blue), id in colors.items()}
        if all(value in known for value in values.tolist()):
            ids = np.array([known[value] for value in values.tolist()])[places].reshape(packed.shape)
    return Annotation.of_classes(encode_labels(layout.labels, ids, mask))

"""SYNTHIA (Ros, CVPR 2016): rendered street scenes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.decoding import picture_mode, read_pixels
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.id_maps import one_layer, values_in
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published, colors_of
from segmodels.errors import InputError
from segmodels.files import reading

SOURCE = "https://synthia-dataset.net"
LICENCE = "CC BY-NC-SA 3.0"
PER_CLASS = 2**16
"""Number of an object in the map of objects: label id times this, plus the number in the file."""


@register_layout(
    "synthia",
    LayoutCard(
        "SYNTHIA-RAND-CITYSCAPES, 22 classes",
        SOURCE,
        "9400 of 1280x760 pixels, no splits",
        LICENCE,
        f"download SYNTHIA-RAND-CITYSCAPES from {SOURCE} and unpack it",
    ),
)
class Synthia(Published):
    """SYNTHIA-RAND-CITYSCAPES. Labels are PNG files of 16 bits: red is the class, 0 void; green the number of an object
    of a class that moves.
    """

    table = "synthia"
    places: ClassVar[tuple[str, ...]] = ("", "RAND_CITYSCAPES/")
    marks = "RGB/ and GT/LABELS/ (RAND_CITYSCAPES)"
    tree: ClassVar[str] = """\
RAND_CITYSCAPES/
  RGB/0000000.png
  GT/LABELS/0000000.png     16 bits, three channels: class, number of the object, 0
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        labels = folder / "GT" / "LABELS"
        return (folder / "RGB").is_dir() and labels.is_dir() and not any(labels.glob("Stereo_*"))  # synthia_seqs

    def samples(self) -> Iterable[Sample]:
        for name, image, mask in self.paired(self.files("RGB"), self.files("GT/LABELS", (".png",))):
            yield Sample(name, None, image, (mask,), group=name)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        stored = read_pixels(self.root / mask)
        if stored.shape[-1] not in (1, 3):
            raise InputError(
                f"{mask} has {stored.shape[-1]} channels, expected 3 (class, number of the object, 0): replace it"
            )
        ids = stored[..., 0].astype(np.int32)
        annotation = Annotation.of_classes(encode_labels(self.labels, ids, mask))
        if stored.shape[-1] == 1:
            return annotation
        numbers = ids * PER_CLASS + stored[..., 1]
        values = [value for value in values_in(numbers) if value % PER_CLASS]
        rows = [Segment(value, self.labels.ids[value // PER_CLASS]) for value in values]
        layers, segments = one_layer(numbers, [row for row in rows if row.label in self.labels.things])
        return replace(annotation, layers=layers, segments=segments)


@register_layout(
    "synthia16",
    LayoutCard(
        "SYNTHIA-RAND-CITYSCAPES, the 16 classes shared with Cityscapes",
        SOURCE,
        "9400 of 1280x760 pixels, no splits",
        LICENCE,
        f"download SYNTHIA-RAND-CITYSCAPES from {SOURCE} and unpack it",
    ),
)
class Synthia16(Synthia):
    """SYNTHIA-RAND-CITYSCAPES in the order of Cityscapes' classes, without terrain, truck and train, as in papers on
    domain adaptation.
    """

    table = "synthia16"
    automatic = False


@register_layout(
    "synthia_rand",
    LayoutCard("SYNTHIA-RAND, 11 classes", SOURCE, "13407, no splits", LICENCE, f"download SYNTHIA-RAND from {SOURCE}"),
)
class SynthiaRand(Published):
    """SYNTHIA-RAND: 11 classes. Label ids come from ``GTTXT/``, else from the colours of ``GT/``; void, lane markings
    and traffic lights count nowhere.
    """

    table = "synthia_rand"
    places = ("", "SYNTHIA_RAND_CVPR16/", "RAND_CVPR16/")
    marks = "RGB/ and GTTXT/, or RGB/ and colours in GT/ (SYNTHIA-RAND)"
    tree: ClassVar[str] = """\
SYNTHIA_RAND_CVPR16/
  RGB/ap_000_01-11-2015_19-20-57_000000_0_Rand_0.png
  GT/ap_000_01-11-2015_19-20-57_000000_0_Rand_0.png        colours
  GTTXT/ap_000_01-11-2015_19-20-57_000000_0_Rand_0.txt     optional: label ids, a line for each row of pixels
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        truth = (folder / "GTTXT").is_dir() or ((folder / "GT").is_dir() and not (folder / "GT" / "LABELS").is_dir())
        return (folder / "RGB").is_dir() and truth

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Not for one's own grey masks in folders of these names."""
        place = cls.place(root)
        if place is None or (root / place / "GTTXT").is_dir():
            return place is not None
        first = next((root / place / "GT").rglob("[!.]*.png"), None)
        return first is not None and picture_mode(first) in ("RGB", "RGBA")

    def samples(self) -> Iterable[Sample]:
        masks = self.files("GTTXT", (".txt",)) or self.files("GT", (".png",))
        for name, image, mask in self.paired(self.files("RGB"), masks):
            yield Sample(name, None, image, (mask,), group=name)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        path = self.root / mask
        ids = _numbers(path) if mask.endswith(".txt") else read_mask(path, colors_of(self.table))
        return Annotation.of_classes(encode_labels(self.labels, ids, mask))


def _numbers(path: Path) -> NDArray[np.int32]:
    """A text file with a line of numbers for each row of pixels; void, 0, is -1 in some files."""
    with reading(path, damaged="replace it"):
        return np.maximum(np.loadtxt(path, dtype=np.int32, ndmin=2), 0)

"""The video sequences of SYNTHIA (Ros, CVPR 2016), and SYNTHIA-SF (Hernandez-Juarez, BMVC 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation
from segmodels.data.decoding import read_pixels
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.pairing import encode_labels
from segmodels.data.layouts.published import Published, colors_of
from segmodels.data.layouts.synthia import LICENCE, SOURCE, Synthia


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

    Sequences of one number show the same drive in other weather and are one group, in a folder with a single sequence
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
        files = {f"/{name}": file for name, file in self.files("").items()}
        images, masks = (
            {
                name.replace(f"/{part}", "/")[1:]: file
                for name, file in files.items()
                if f"/{part}Left/" in name or f"/{part}Right/" in name
            }
            for part in ("RGB", "GT")
        )
        for name, image, mask in self.paired(images, masks):
            yield Sample(name, None, image, (mask,), group=name.split("/")[0])

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        pixels = read_pixels(self.root / mask).astype(np.int32)
        ids = pixels[..., 0]
        if pixels.shape[-1] == 3:
            packed = pixels @ np.array([65536, 256, 1], np.int32)
            values, places = np.unique(packed, return_inverse=True)
            known = {red << 16 | green << 8 | blue: id for (red, green, blue), id in colors_of(self.table).items()}
            if all(value in known for value in values.tolist()):
                ids = np.array([known[value] for value in values.tolist()])[places].reshape(packed.shape)
        return Annotation.of_classes(encode_labels(self.labels, ids, mask))

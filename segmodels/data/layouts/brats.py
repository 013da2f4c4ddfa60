"""Brain tumours of the BraTS challenges (Menze, IEEE TMI 34, 2015): a folder of NIfTI files for each case."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.classes_file import distinct_colors
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published
from segmodels.data.layouts.slices import Slices
from segmodels.data.layouts.splits import published_split
from segmodels.data.modalities import LABELS, MODALITIES, NAMES, require_same_modalities
from segmodels.data.nifti import SUFFIXES, read_label_volume, read_modalities, require_same_axes, stem
from segmodels.errors import InputError
from segmodels.labels import LabelMap

CLASSES = ("background", "necrosis", "oedema", "non-enhancing tumour", "enhancing tumour")
ENHANCING_2023, ENHANCING = 3, 4
"""Label ids of the enhancing tumour in the challenges from 2023 on, and before."""

CARD = LayoutCard(
    "BraTS, brain tumours",
    "https://www.med.upenn.edu/cbica/brats2020/",
    licence="CC BY-NC-SA 3.0 (2013, 2015); see the challenge's page for others",
    get="register for the challenge of a year at https://www.med.upenn.edu/cbica/brats2020/registration.html",
)


@register_layout("brats", CARD)
class Brats(Published):
    """BraTS, as the challenges and DeepMedic's examples have it: modalities are channels, in the order flair, t1, t1c,
    t2. A case's folder may lie in a folder of its split. Cases without labels are not annotated.
    """

    places = ("", "brats2015TrainingData/", "MICCAI_BraTS2020_TrainingData/", "BraTS2020_TrainingData/")
    marks = "a folder for each case, in it *_flair.nii.gz, *-t2f.nii.gz or Flair*.nii.gz"
    tree: ClassVar[str] = """\
train/brats_2013_pat0005_1/Flair_subtrMeanDivStd.nii.gz       DeepMedic; with T1c_subtrMeanDivStd.nii.gz
train/brats_2013_pat0005_1/OTMultiClass.nii.gz                label ids 0..4
BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz        the challenge; with _t1, _t1ce, _t2
BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz          label ids 0, 1, 2, 4
BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz            from 2023 on; with -t1n, -t1c, -t2w
BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz            label ids 0..3, 3 the enhancing tumour
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        paths = (path for place in ("*/*.nii*", "*/*/*.nii*", "*/*/*/*.nii*") for path in folder.glob(place))
        return any(_part(path.name) == "flair" for path in paths)

    @classmethod
    def published(cls) -> LabelMap | None:
        return LabelMap(CLASSES, distinct_colors(len(CLASSES)), {train: train for train in range(len(CLASSES))})

    def samples(self) -> Iterable[Sample]:
        cases: dict[str, dict[str, str]] = {}
        for file in self.files("", (".gz", ".nii")).values():
            folder, _, name = file.rpartition("/")
            if name.endswith(SUFFIXES) and (part := _part(name)) is not None:
                other = cases.setdefault(folder, {}).setdefault(part, file)
                if stem(other) != stem(file):
                    raise InputError(
                        f"{self.root / other} and {name} are both the {part} of one case, expected a folder for each"
                        " case: move the files of each into one, or remove one of the two"
                    )
        found = {folder: [own for own in MODALITIES if own in parts] for folder, parts in cases.items()}
        found = {folder: own for folder, own in found.items() if own}
        require_same_modalities(found)
        for folder, modalities in found.items():
            parts = cases[folder]
            images = [parts[modality] for modality in modalities]
            masks = [parts[label] for label in LABELS if label in parts][:1]
            path = PurePosixPath(folder)
            split = published_split(path.parent.name)
            yield Sample(path.name, split, images[0], (*masks, *images[1:]), group=path.name)

    def read_image(self, sample: Sample) -> NDArray:
        others = [file for file in sample.files if _part(file) in MODALITIES]
        return read_modalities([self.root / file for file in (sample.image, *others)])

    def annotation(self, sample: Sample) -> Annotation | None:
        mask = sample.annotation_file
        if mask is None or _part(mask) not in LABELS:
            return None
        ids, spacing = read_label_volume(self.root / mask)
        require_same_axes(self.root / mask, self.root / sample.image)
        if stem(mask).endswith("-seg"):  # as files are named since 2023
            ids[ids == ENHANCING_2023] = ENHANCING
        return replace(Annotation.of_classes(encode_labels(self.labels, ids, mask)), spacing=spacing)


@register_layout("brats_slices", replace(CARD, reads="BraTS, slice by slice"))
class BratsSlices(Slices):
    """The axial slices of ``brats``."""

    volumes = Brats
    tree = Brats.tree

    @classmethod
    def published(cls) -> LabelMap | None:
        return Brats.published()


def _part(file: str) -> str | None:
    """The modality or the labels that a file holds, by the last or the first word of its name."""
    words = re.split("[_-]", stem(file.rpartition("/")[2]).lower())
    return next((NAMES.get(word, word) for word in (words[-1], words[0]) if word in NAMES or word in LABELS), None)

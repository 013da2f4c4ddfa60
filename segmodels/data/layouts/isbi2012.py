"""Membranes of the ISBI 2012 challenge (Arganda-Carreras, Frontiers in Neuroanatomy 9, 2015): electron microscopy of a
fly's nerve cord.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.data.decoding import SUFFIXES
from segmodels.data.label_files import page_count, read_mask, read_page
from segmodels.data.layouts.base import LayoutCard, Sample, register_layout
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.pairing import split_folders
from segmodels.data.layouts.published import Published
from segmodels.errors import InputError
from segmodels.labels import LabelMap

VOLUME, LABELS = "train-volume.tif", "train-labels.tif"


@register_layout(
    "isbi2012",
    LayoutCard(
        "membranes of the ISBI 2012 challenge",
        "https://imagej.net/events/isbi-2012-segmentation-challenge",
        "30 slices of 512x512 pixels, no splits; 30 test slices without public labels",
        "research",
        "git clone https://github.com/zhixuhao/unet (slices), or the TIFF stacks of the challenge",
    ),
)
class Isbi2012(Published):
    """Membranes: label 0; cells: 255. Slices are read from PNG files, or from the challenge's stacks of 30 pages."""

    places = ("", "data/membrane/", "membrane/")
    marks = "train/image/ and train/label/ (data/membrane), or train-volume.tif and train-labels.tif"
    tree: ClassVar[str] = """\
data/membrane/train/image/0.png     grey slices
data/membrane/train/label/0.png     grey: 0 membrane, 255 cell
train-volume.tif                    or the stacks, with train-labels.tif
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        slices = (folder / "train" / "image").is_dir() and split_folders(folder, "label") == ["train"]
        return slices or ((folder / VOLUME).is_file() and (folder / LABELS).is_file())

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Not for one's own data in folders of these names: the slices are numbered."""
        place = cls.place(root)
        labels = [] if place is None else (root / place / "train" / "label").glob("[!.]*")
        return place is not None and all(path.stem.isdecimal() for path in labels if path.suffix.lower() in SUFFIXES)

    @classmethod
    def published(cls) -> LabelMap | None:
        return LabelMap(("membrane", "cell"), ((0, 0, 0), (255, 255, 255)), {0: 0, 255: 1})

    def samples(self) -> Iterable[Sample]:
        if (self.root / self.top / VOLUME).is_file():
            pages, slices = (page_count(self.root / self.top / name) for name in (LABELS, VOLUME))
            if pages != slices:
                raise InputError(
                    f"{self.root / self.top / LABELS} has {pages} pages but {VOLUME} {slices}, expected a page of"
                    " labels for each slice: replace the files"
                )
            for page in range(pages):
                yield Sample(f"{page:02}", None, self.top + VOLUME, (self.top + LABELS,), group=f"{page:02}")
            return
        for name, image, mask in self.paired(self.files("train/image"), self.files("train/label")):
            yield Sample(name, None, image, (mask,), group=name)

    def read_image(self, sample: Sample) -> NDArray:
        if not sample.image.endswith(VOLUME):
            return super().read_image(sample)
        return read_page(self.root / sample.image, int(sample.id))[:, :, None].astype(np.uint8)

    def annotation(self, sample: Sample) -> Annotation | None:
        (mask,) = sample.files
        stack = mask.endswith(LABELS)
        ids = read_page(self.root / mask, int(sample.id)) if stack else read_mask(self.root / mask)
        return Annotation.of_classes(encode_labels(self.labels, ids, mask))

"""Semantic Boundaries Dataset (Hariharan, ICCV 2011): PASCAL VOC's 20 classes and objects on 11,355 photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.folder_files import composed
from segmodels.data.layouts.base import Archive, LayoutCard, Sample, register_layout
from segmodels.data.layouts.id_maps import one_layer
from segmodels.data.layouts.mask_values import encode_labels
from segmodels.data.layouts.published import Published
from segmodels.data.matlab import matlab_variable
from segmodels.data.sizes import require_one_size
from segmodels.errors import InputError
from segmodels.files import read_plain_text, reading


@register_layout(
    "sbd",
    LayoutCard(
        "Semantic Boundaries Dataset, classes and objects in Matlab files",
        "Hariharan, ICCV 2011",
        "train 8498, val 2857",
        "photographs under the terms of Flickr; annotations for research",
        archives=(
            Archive(
                "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                md5="82b4d87ceb2ed10f6038a1cba92111cb",
                stated="torchvision, datasets/sbd.py",
            ),
        ),
    ),
)
class Sbd(Published):
    """SBD as its authors publish it. Splits are its lists; some of its photographs for training are in VOC 2012's val,
    so models trained on it are measured on its own val. Nothing is void. Objects come from ``inst/``; without that
    folder there are none.
    """

    table = "voc2012"
    places: ClassVar[tuple[str, ...]] = ("", "dataset/", "benchmark_RELEASE/dataset/")
    marks = "img/ and cls/ with *.mat (benchmark_RELEASE/dataset)"
    tree: ClassVar[str] = """\
benchmark_RELEASE/dataset/
  img/2008_000002.jpg
  cls/2008_000002.mat      GTcls.Segmentation: class ids
  inst/2008_000002.mat     optional: GTinst.Segmentation, numbers of objects, and GTinst.Categories, their classes
  train.txt                with val.txt: one id per line
"""

    @classmethod
    def begins(cls, folder: Path) -> bool:
        return (folder / "img").is_dir() and any((folder / "cls").glob("*.mat"))

    def samples(self) -> Iterable[Sample]:
        pairs = self.paired(self.files("img"), self.files("cls", (".mat",)))
        objects = self.files("inst", (".mat",))
        lists = {split: self.root / self.top / f"{split}.txt" for split in ("train", "val")}
        splits: dict[str | None, list[str]] = {
            split: [composed(name) for name in read_plain_text(path).split()]
            for split, path in lists.items()
            if path.is_file()
        }
        for split, name, image, mask in self.listed(pairs, (splits or {None: [name for name, _, _ in pairs]}).items()):
            yield Sample(name, split, image, (mask, *([objects[name]] if name in objects else [])), group=name)

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        height, width = _fields(self.root / sample.files[0], "GTcls")[0].shape
        return height, width

    def annotation(self, sample: Sample) -> Annotation | None:
        mask, *objects = sample.files
        classes = encode_labels(self.labels, _fields(self.root / mask, "GTcls")[0], mask)
        annotation = Annotation.of_classes(classes)
        if not objects:
            return annotation
        ids, categories = _fields(self.root / objects[0], "GTinst", "Categories")
        require_one_size(objects[0], ids.shape, mask, classes.shape)
        known = [Segment(number, int(label)) for number, label in enumerate(categories.ravel(), start=1)]
        if ids.max(initial=0) > len(known) or any(row.label not in self.labels.things for row in known):
            raise InputError(
                f"{objects[0]} has the categories {[row.label for row in known]}, expected one of 1 to 20 for each of"
                f" {ids.max(initial=0)} objects: replace it"
            )
        layers, segments = one_layer(ids.astype(np.int32), known)
        return replace(annotation, layers=layers, segments=segments)


def _fields(path: Path, name: str, *further: str) -> list[NDArray]:
    """``Segmentation``, a map ``(H, W)`` of bytes, and further fields of the structure of that name."""
    with reading(path, damaged="replace it"):
        structure = matlab_variable(path, name)
        found = [np.asarray(structure[field][0, 0]) for field in ("Segmentation", *further)]
        if found[0].ndim != 2 or any(one.dtype.kind not in "ui" for one in found):
            raise ValueError(f"{name}.Segmentation is not a map of whole numbers")
        return found

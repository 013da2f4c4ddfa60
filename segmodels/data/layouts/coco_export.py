"""COCO's JSON files as annotation tools export them: CVAT, Roboflow, Supervisely, Label Studio, VGG's, labelme2coco."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from segmodels.annotations import Annotation
from segmodels.data.decoding import SUFFIXES
from segmodels.data.folder_files import composed, data_files_below, is_leftover
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.cityscapes import Cityscapes
from segmodels.data.layouts.coco import Coco
from segmodels.data.layouts.coco_json import (
    CocoFile,
    by_composed_name,
    find_image,
    labels_of,
    object_annotation,
    stated_size,
    stem,
)
from segmodels.data.layouts.pairing import pictures_beside
from segmodels.data.layouts.splits import published_split
from segmodels.errors import InputError
from segmodels.labels import LabelMap

PLACES = ("*.json", "annotations/*.json", "*/*.json", "*/annotations/*.json")
"""Where exports have their JSON file, below the dataset's folder."""

KEYPOINTS = "person_keypoints_"
OTHERS = ("captions_", "image_info_", "labels_", "panoptic_", KEYPOINTS, "stuff_")
"""Beginnings of the names of COCO's other files. Those of keypoints hold people's masks too: they are read where there
are no files of objects.
"""

KEYS = (b'"images"', b'"annotations"', b'"categories"')
PANOPTIC = b'"segments_info"'
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LARGEST_PARSED = 2**24
"""Bytes of a JSON file; in a larger one the keys are enough. It is looked through in pieces of this size."""


@register_layout(
    "coco_export",
    LayoutCard(
        "objects in COCO's JSON, as CVAT, Roboflow, Supervisely, Label Studio and VGG's annotator (VIA) export them",
        "https://cocodataset.org/#format-data",
        get="export your project from the annotation tool as COCO (for Roboflow: COCO Segmentation)",
    ),
)
class CocoExport(Layout):
    """Objects in COCO's JSON, with the export's own categories. Class 0 is the background.

    Every JSON file is a split: by the one word in its name that is a split's (``instances_train.json``,
    ``train_v2.json``) or the folder it lies in (``train/_annotations.coco.json``); ``valid`` and ``validation`` are
    val. Where no file has a split's name there are no splits. Images are looked for beside the JSON file, in
    ``images/`` and under the split's name; where none of a JSON file's is found so (paths of another machine), each
    by its name alone. Pictures that no JSON file lists are left out, and objects without a mask; images without
    objects are background. ``person_keypoints_*.json`` is read where there are no other files. CVAT marks every mask
    drawn with its brush as a crowd; here such masks, known by CVAT's attribute ``occluded``, are objects.
    """

    marks = (
        "a JSON file of COCO's form: annotations/instances_default.json (CVAT), train/_annotations.coco.json"
        " (Roboflow), DATASET/annotations/instances.json (Supervisely), result.json (Label Studio)"
    )
    tree: ClassVar[str] = """\
annotations/instances_default.json       CVAT, images in images/
train/_annotations.coco.json             Roboflow, images beside it; likewise valid/ and test/
DATASET/annotations/instances.json       Supervisely, images in DATASET/images/
result.json                              Label Studio, images in images/
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        found = _json_files(self.root)
        if not found:
            raise self.not_organised()
        self._json = {name: CocoFile(self.root / name, name) for name in found}

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Not beside the trees of datasets that tools add such files to."""
        return not Coco.fits(root) and not Cityscapes.fits(root) and bool(_json_files(root))

    @cached_property
    def labels(self) -> LabelMap:
        return labels_of(self._json.values())

    def samples(self) -> Iterable[Sample]:
        self.left_out = []
        splits = {name: _split(name) for name in self._json}
        self._require_one_list(splits)
        named = all(splits.values())
        for name, file in self._json.items():
            file.require_masks()
            images = self._places[name]
            self.left_out += [own for own in file.images if own not in images]
            for own, image in images.items():
                sample = stem(own) if named else stem(image)
                yield Sample(sample, splits[name] if named else None, image, (name,), group=sample)
        listed = {image for places in self._places.values() for image in places.values()}
        self.left_out += pictures_beside(listed, self._all_files.values())

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        return stated_size(self._rows[sample.files[0]][sample.image])

    def annotation(self, sample: Sample) -> Annotation | None:
        name = sample.files[0]
        return object_annotation(self._json[name], self._rows[name][sample.image], self.labels)

    @cached_property
    def _rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        """JSON file -> path of the image relative to the root -> its row."""
        return {
            name: {image: file.images[own] for own, image in self._places[name].items()}
            for name, file in self._json.items()
        }

    @cached_property
    def _all_files(self) -> dict[str, str]:
        return by_composed_name(data_files_below(self.root))

    @cached_property
    def _places(self) -> dict[str, dict[str, str]]:
        """JSON file -> image as it names it -> path of the image relative to the root, of those that are there."""
        found = {}
        for name, file in self._json.items():
            folders = _folders(name)
            places = {own: find_image(own, folders, self._all_files) for own in file.images}
            found[name] = {own: place for own, place in places.items() if place is not None}
        taken = {place for places in found.values() for place in places.values()}
        return {name: places or self._by_name_alone(name, taken) for name, places in found.items()}

    def _by_name_alone(self, name: str, taken: set[str]) -> dict[str, str]:
        """The only picture of each image's name, in letters of any case; none of them where two images share one."""
        pictures: dict[str, list[str]] = {}
        for key, file in self._all_files.items():
            if PurePosixPath(file).suffix.lower() in SUFFIXES and file not in taken:
                pictures.setdefault(_last(key), []).append(file)
        images = self._json[name].images
        if len({_last(own) for own in images}) < len(images):
            return {}
        return {own: files[0] for own in images if len(files := pictures.get(_last(own), [])) == 1}

    def _require_one_list(self, splits: Mapping[str, str | None]) -> None:
        """Raises InputError: two files of one split, or of none, list one image; only some have a split's name."""
        named = all(splits.values())
        first: dict[tuple[str | None, str], str] = {}
        for name, places in self._places.items():
            for image in places.values():
                if (other := first.setdefault((splits[name] if named else None, image), name)) != name:
                    raise InputError(
                        f"dataset folder {self.root} has the image {image} in {other} and in {name}, expected it in one"
                        " of them: remove one of the two JSON files"
                    )
        if not named and any(splits.values()):
            nameless = [name for name, split in splits.items() if split is None]
            raise InputError(
                f"dataset folder {self.root} has JSON files of splits"
                f" ({', '.join(name for name, split in splits.items() if split)}) beside others"
                f" ({', '.join(nameless[:5])}), expected train, val or test in the name of each or of none: rename or"
                " remove the others"
            )


def _json_files(root: Path) -> list[str]:
    """Files of COCO's form, relative to ``root``."""
    found = dict.fromkeys(path for place in PLACES for path in sorted(root.glob(place)))
    paths = [path for path in found if not any(map(is_leftover, path.relative_to(root).parts))]
    objects = (path for path in paths if not path.name.startswith(OTHERS))
    keypoints = (path for path in paths if path.name.startswith(KEYPOINTS))
    files = list(filter(_is_coco, objects)) or list(filter(_is_coco, keypoints))
    return [path.relative_to(root).as_posix() for path in files]


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's keys."""
    missing, end = set(KEYS), b""
    try:
        with path.open("rb") as file:
            while piece := file.read(LARGEST_PARSED):
                if not end and piece.startswith(UTF_16):  # of Windows PowerShell
                    piece = path.read_bytes().decode("utf-16").encode()
                text = end + piece
                if PANOPTIC in text:
                    return False
                missing = {key for key in missing if key not in text}
                end = text[-len(PANOPTIC) :]
        if missing or path.stat().st_size > LARGEST_PARSED:
            return not missing
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _split(name: str) -> str | None:
    """The split of a JSON file: by the end of its name, else the one word in it that is a split's, else its folder."""
    path = PurePosixPath(name)
    words = [split for word in re.split(r"[-_. ]", path.stem) if (split := published_split(word))]
    if ending := published_split(path.stem.rpartition("_")[2]):
        return ending
    return words[0] if len(set(words)) == 1 else published_split(path.parent.name)


def _folders(name: str) -> list[str]:
    """Where the images of a JSON file may be, relative to the root, each with a final slash."""
    path = PurePosixPath(name)
    subset = path.stem.rpartition("_")[2]
    here = [path.parent, path.parent.parent] if path.parent.name == "annotations" else [path.parent]
    parts = ("", "images", f"images/{subset}", subset, "JPEGImages", "data", "img")
    folders = [folder / part for folder in here for part in parts]
    return ["" if str(folder) == "." else f"{folder}/" for folder in dict.fromkeys(folders)]


def _last(name: str) -> str:
    """The name of a file without its folders, in Label Studio's paths (``/data/local-files/?d=0001.jpg``) too."""
    return composed(re.split(r"/|\?d=", name)[-1]).lower()

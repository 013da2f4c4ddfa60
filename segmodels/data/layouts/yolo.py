"""Polygons in YOLO's text files (https://docs.ultralytics.com/datasets/segment/), one file per image."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.checks import shown
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import SUFFIXES, picture_size
from segmodels.data.folder_files import as_spelled, composed, data_files_below, with_ending_spelled
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_json import is_background, with_background
from segmodels.data.layouts.coco_masks import decode_mask
from segmodels.data.layouts.object_masks import annotation_of_masks
from segmodels.data.layouts.splits import SPLITS, published_split, splits_by_folder
from segmodels.data.layouts.yolo_yaml import CLASSES, describing_files, read_description, split_members
from segmodels.data.limits import require_size
from segmodels.errors import InputError
from segmodels.files import read_plain_text
from segmodels.labels import LabelMap

BOX = 4
"""Numbers of a line that is a box: its centre, width and height."""

POLYGONS = "expected polygons, class x1 y1 x2 y2 x3 y3 ...: export the project as segmentation"

MOST = 2
"""A coordinate above is no share of the image's side but a pixel; slightly above 1 are corners outside the image."""


@register_layout(
    "yolo",
    LayoutCard(
        "polygons in YOLO's text files, as Ultralytics, Roboflow and CVAT have them",
        "https://docs.ultralytics.com/datasets/segment/",
        get="for Roboflow: export your project of instance segmentation as YOLOv8 or later",
    ),
)
class Yolo(Layout):
    """Objects as polygons in YOLO's text files. Class 0 is the background; the others are the ``names`` of the YAML
    file in their order, so that YOLO's class 0 is class 1 unless it is called background. Without a YAML file the names
    are the lines of ``classes.txt`` (Label Studio).

    Each line is an object, drawn as COCO's polygons are, small ones above large ones. An image without a text file has
    no objects; folders of images without the text file of any are left out. The folders images/ and labels/ and the
    endings may have letters of any case.

    Splits are what the YAML file names as ``train``, ``val`` and ``test``: folders, or text files with the path of an
    image per line, or lists of both, from the folder ``path``. Paths of another machine are read by their ends
    (``/home/me/pets/images/train``: ``images/train``); those that lead nowhere are left out. Other images belong to the
    split whose name their folder has, such as train, valid and test; without paths in the YAML file two are enough.
    """

    turned = True  # as YOLO reads pictures
    marks = (
        "a YAML file with names (data.yaml), or classes.txt, beside images/ and labels/*.txt, or train/images/ and"
        " train/labels/*.txt"
    )
    tree: ClassVar[str] = """\
data.yaml                    names: a list, or number: name; optional: path, train, val, test
classes.txt                  or this: a name per line
images/train/0001.jpg        or train/images/0001.jpg; splits may be missing
labels/train/0001.txt        a line per object: class x1 y1 x2 y2 x3 y3 ..., shares of width and height
"""

    @classmethod
    def fits(cls, root: Path) -> bool:
        return cls.resembles(root) and any(path.name.lower() != CLASSES for path in describing_files(root))

    @classmethod
    def resembles(cls, root: Path) -> bool:
        labels, ending = _any_case("labels"), _any_case(".txt")
        places = (f"{labels}/*{ending}", f"{labels}/*/*{ending}", f"*/{labels}/*{ending}")
        found = {path.relative_to(root).parent for place in places for path in root.glob(place)}
        return any(_images_of(root, path).is_dir() for path in found)

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._description = read_description(self.root)

    @cached_property
    def labels(self) -> LabelMap:
        names = [name for name in self._description.names if not is_background(name)]
        ids = {number + 1: number for number in range(len(names))}
        return with_background(names, distinct_colors(len(names) + 1)[1:], ids)

    @cached_property
    def _trains(self) -> list[int]:
        """Train ids by YOLO's number."""
        classes = self.labels.classes
        return [0 if is_background(name) else classes.index(name) for name in self._description.names]

    def samples(self) -> Iterable[Sample]:
        files = {composed(name): name for name in data_files_below(self.root)}
        folders = {name: name.lower().split("/")[:-1] for name in files}
        texts = {name for name in files if "labels" in folders[name] and name.lower().endswith(".txt")}
        images = [name for name in files if Path(name).suffix.lower() in SUFFIXES and "images" in folders[name]]
        places = sorted(map(posixpath.dirname, texts))
        homes = {place.lower(): place for place in places} | {place: place for place in places}
        text_of = {image: _text_of(image, texts, homes) for image in images}
        used = texts & set(text_of.values())
        annotated = {posixpath.dirname(text) for text in used}
        ids = self._ids([image for image in images if posixpath.dirname(text_of[image]) in annotated])
        self._require_polygons(files[text] for text in sorted(used))
        members = list(self._in_splits(ids, files))
        placed = {image for _, image in members}
        self.left_out = [files[name] for name in (*images, *sorted(texts)) if name not in placed | used]
        for split, image in members:
            # without a text file: annotated as one without objects, which the file of the names stands for
            text = files[text_of[image]] if text_of[image] in used else self._description.file
            yield Sample(ids[image], split, files[image], (text,), group=ids[image])

    def _ids(self, images: Iterable[str]) -> dict[str, str]:
        """Image -> id of its sample."""
        found: dict[str, str] = {}
        for image in images:
            path = PurePosixPath(image)
            sample = str(PurePosixPath(_swapped(path, "images", "")).with_suffix(""))
            if sample in found:
                raise InputError(
                    f"{self.root / found[sample]} and {image} have the same name up to the ending, expected one file"
                    " per sample: rename or remove one"
                )
            found[sample] = image
        return {image: sample for sample, image in found.items()}

    def _in_splits(self, ids: Mapping[str, str], files: Collection[str]) -> Iterable[tuple[str | None, str]]:
        """(split, image) by the YAML file; of images that it does not name, and without paths in it, by folders."""
        named = split_members(self._description, self.root, files, ids)
        if not named:
            by_folder = splits_by_folder(self.root, ids.values())
            return [(by_folder.get(sample), image) for image, sample in ids.items()]
        others = ids.keys() - set().union(*named.values())
        for split in set(SPLITS) - named.keys():
            named[split] = {image for image in others if published_split(ids[image].partition("/")[0]) == split}
        return [(split, image) for split in SPLITS if split in named for image in ids if image in named[split]]

    def _require_polygons(self, texts: Iterable[str]) -> None:
        """Raises InputError: the first text file with objects holds boxes alone."""
        for text in texts:
            lines = [line for line in read_plain_text(self.root / text).splitlines() if line.strip()]
            if lines and all(len(line.split()) == BOX + 1 for line in lines):
                raise InputError(f"{text} holds boxes alone, {shown(lines[0])}, {POLYGONS}")
            if lines:
                return

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        return picture_size(self.root / sample.image)

    def annotation(self, sample: Sample) -> Annotation | None:
        size = self.annotation_size(sample) or self.read_image(sample).shape[:2]
        require_size(size, sample.image)
        objects = self._objects(sample.files[0], size) if sample.files[0] != self._description.file else []
        classes = np.zeros(size, self.labels.dtype)
        for label, mask in sorted(objects, key=lambda one: -int(one[1].sum())):
            classes[mask] = label
        things = [(label, mask) for label, mask in objects if label]
        segments = [Segment(number, label) for number, (label, _) in enumerate(things, start=1)]
        return annotation_of_masks(classes, [mask for _, mask in things], segments)

    def _objects(self, file: str, size: tuple[int, int]) -> list[tuple[int, NDArray[np.bool_]]]:
        """Train id and pixels ``(H, W)`` of each object."""
        found = []
        for number, line in enumerate(read_plain_text(self.root / file).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                first, *corners = map(float, line.split())
                label = int(first)
            except (ValueError, OverflowError):
                raise InputError(f"{where} is {shown(line)}, expected class x1 y1 x2 y2 ...: correct it") from None
            if len(corners) <= BOX:
                raise InputError(f"{where} is {'a box, ' * (len(corners) == BOX)}{shown(line)}, {POLYGONS}")
            if label != first or not 0 <= label < len(self._trains):
                raise InputError(
                    f"{where} has the class {first:g}, expected 0 to {len(self._trains) - 1}, the numbers of the"
                    " names: correct it"
                )
            if far := [one for one in corners if not abs(one) <= MOST]:
                raise InputError(
                    f"{where} has the coordinate {far[0]:g}, expected shares of the image's width and height, 0 to 1:"
                    " divide the pixels by these"
                )
            polygon = [one * size[1 - place % 2] for place, one in enumerate(corners)]
            found.append((self._trains[label], decode_mask([polygon], size, where)))
        return found


def _text_of(image: str, texts: Collection[str], homes: Mapping[str, str]) -> str:
    """The text file that an image has or might have; ``homes`` are the folders of ``texts`` by their names, also in
    small letters.
    """
    path = PurePosixPath(_swapped(PurePosixPath(image), "images", "labels")).with_suffix(".txt")
    own = str(path.parent)
    home = homes.get(own) or homes.get(own.lower(), own)
    return with_ending_spelled(f"{home}/{path.name}", texts)


def _images_of(root: Path, labels: Path) -> Path:
    """The folder of the images whose text files lie in ``labels``, a path relative to ``root``."""
    place = _place(labels, "labels")
    return as_spelled(root.joinpath(*labels.parts[:place], "images")).joinpath(*labels.parts[place + 1 :])


def _swapped(path: PurePosixPath | Path, old: str, new: str) -> str:
    """The path with ``new`` in place of its last folder ``old``; without that folder where ``new`` is empty."""
    parts, place = list(path.parts), _place(path, old)
    parts[place : place + 1] = [new] if new else []
    return "/".join(parts)


def _place(path: PurePosixPath | Path, folder: str) -> int:
    """The place of the last ``folder`` among the parts of a path, in letters of any case."""
    return max(place for place, part in enumerate(path.parts) if part.lower() == folder)


def _any_case(text: str) -> str:
    """A pattern of ``glob``."""
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in text)

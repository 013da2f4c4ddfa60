"""JSON files of the annotation tool labelme (https://github.com/wkentaro/labelme): shapes drawn on a picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segmodels.annotations import Annotation, Segment
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import SUFFIXES, decode_pixels
from segmodels.data.folder_files import data_files_below, is_leftover, with_ending_spelled
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.object_masks import annotation_of_masks, pasted
from segmodels.data.layouts.pairing import pictures_beside
from segmodels.data.layouts.splits import splits_by_folder
from segmodels.data.limits import require_size
from segmodels.errors import InputError
from segmodels.files import parse_json, read_plain_text, reading
from segmodels.labels import LabelMap, ignore_index_for
from segmodels.suggest import nearest

BACKGROUND, IGNORED = "_background_", "__ignore__"
"""labelme's names; the first is called background here."""

LIST = "labels.txt"
FORM = {"shapes": [{"label": str, "points": [[float]]}]}
LINE_WIDTH, POINT_RADIUS = 10, 5
"""Pixels, as labelme draws lines and points."""

TURNED_RECTANGLES = ("rotation", "oriented_rectangle")
"""Kinds of shapes of four corners, the first of X-AnyLabeling."""

PICTURE = (b'"imagePath"', b'"imageData"')


@register_layout(
    "labelme",
    LayoutCard(
        "pictures annotated with labelme",
        "https://github.com/wkentaro/labelme",
        get="annotate your pictures with labelme and save the JSON files beside them",
    ),
)
class Labelme(Layout):
    """Pictures annotated with labelme.

    Shapes are drawn in their order, as ``labelme2voc`` does, each an object; shapes of one label and group are one
    object. ``__ignore__`` counts nowhere; what no shape covers is background, class 0. Classes stand in ``labels.txt``
    in the order of the train ids, else all labels that occur in alphabetical order. A missing picture is read from the
    JSON file where labelme saved it there. Folders train, val and test (two are enough) are splits. Pictures without a
    JSON file are left out.
    """

    turned = True  # as labelme shows pictures
    marks = "JSON files of labelme (shapes, and imagePath or imageData), at the top or one folder below"
    tree: ClassVar[str] = """\
labels.txt        optional: __ignore__, _background_ and the classes, one per line
001.json          shapes, and the name of the picture
001.jpg
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        if not self._json:
            raise self.not_organised()

    @classmethod
    def fits(cls, root: Path) -> bool:
        folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not is_leftover(path.name))]
        firsts = (min(folder.glob("[!.]*.[jJ][sS][oO][nN]"), default=None) for folder in folders)
        return any(path is not None and _is_labelme(path) for path in firsts)

    @cached_property
    def _all_files(self) -> list[str]:
        return data_files_below(self.root)

    @cached_property
    def _json(self) -> list[str]:
        names = (name for name in self._all_files if name.lower().endswith(".json"))
        return [name for name in names if _is_labelme(self.root / name)]

    @cached_property
    def labels(self) -> LabelMap:
        path = self.root / LIST
        if path.is_file():
            listed = [line.strip() for line in read_plain_text(path).splitlines() if line.strip()]
        else:
            listed = sorted({shape["label"] for name in self._json for shape in self._content(name)["shapes"]})
            if not listed:
                raise InputError(
                    f"dataset folder {self.root} has no shape in any of its {len(self._json)} JSON files of labelme,"
                    f" from {self._json[0]} on, expected some with labels: draw them, or list the classes in {LIST}"
                )
        names = ("background", *(name for name in listed if name not in (BACKGROUND, IGNORED, "background")))
        ids = {train: train for train in range(len(names))}
        things = frozenset(range(1, len(names)))
        return LabelMap(names, distinct_colors(len(names)), ids, ignore_index_for(len(names)), things)

    def samples(self) -> Iterable[Sample]:
        images = {name: image for name, image in self._images.items() if image is not None}
        self.left_out = [name for name in self._json if name not in images]
        ids = {name: str(PurePosixPath(name).with_suffix("")) for name in images}
        splits = splits_by_folder(self.root, ids.values())
        for name, sample in ids.items():
            yield Sample(sample, splits.get(sample), images[name], (name,), group=sample)
        self.left_out += pictures_beside(set(images.values()), self._all_files)

    def read_image(self, sample: Sample) -> NDArray:
        if not sample.image.lower().endswith(".json"):
            return super().read_image(sample)
        with reading(self.root / sample.image, damaged="save the picture again"):
            data = base64.b64decode(self._content(sample.image)["imageData"], validate=True)
        return decode_pixels(data, sample.image)

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        content = self._content(sample.files[0])
        height, width = content.get("imageHeight"), content.get("imageWidth")
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def annotation(self, sample: Sample) -> Annotation | None:
        (name,) = sample.files
        content = self._content(name)
        size = self._size(sample)
        classes = np.zeros(size, self.labels.dtype)
        objects: dict[object, tuple[int, NDArray[np.bool_]]] = {}
        for number, shape in enumerate(content["shapes"]):
            mask = drawn(shape, size, f"{name}: shape {number + 1}")
            label = self._label(shape["label"], name)
            classes[mask] = label
            if label in self.labels.things:
                group = shape.get("group_id")
                key = number if group is None else (label, group)
                before = objects.get(key, (label, np.zeros(size, dtype=bool)))[1]
                objects[key] = label, before | mask
        segments = [Segment(number, label) for number, (label, _) in enumerate(objects.values(), start=1)]
        return annotation_of_masks(classes, [mask for _, mask in objects.values()], segments)

    def _content(self, name: str) -> dict[str, Any]:
        with reading(self.root / name, damaged="save it in labelme again"):
            content: dict[str, Any] = parse_json((self.root / name).read_bytes(), FORM)
            return content

    def _size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of the picture."""
        if (size := self.annotation_size(sample)) is not None:
            require_size(size, sample.files[0])
            return size
        image = self.read_image(sample)
        return image.shape[0], image.shape[1]

    def _label(self, label: str, name: str) -> int:
        """Train id."""
        if label == IGNORED:
            return self.labels.ignore_index
        if label == BACKGROUND:
            return 0
        if label not in self.labels.classes:
            raise InputError(f"{name}: {nearest('class', label, self.labels.classes)}")
        return self.labels.classes.index(label)

    @cached_property
    def _images(self) -> dict[str, str | None]:
        """JSON file -> the picture's path relative to the root: beside the JSON file, else the only one of its name in
        the dataset that is no other file's, else the JSON file itself where it holds the picture, else the picture
        beside it of the JSON file's name; None where there is none of these.
        """
        stated = {name: self._stated(name) for name in self._json}
        taken = {path for path in stated.values() if path in self._places.get(str(path).rpartition("/")[2], ())}
        found: dict[str, str | None] = {}
        for name, path in stated.items():
            free = [one for one in self._places.get(path.rpartition("/")[2], ()) if one not in taken]
            if path in taken:
                found[name] = path
            elif len(free) == 1:
                found[name] = free[0]
            else:
                beside = (self._spelled(name[: -len(".json")] + suffix) for suffix in SUFFIXES)
                there = (one for one in beside if one in self._places.get(one.rpartition("/")[2], ()))
                found[name] = name if self._content(name).get("imageData") else next(there, None)
        return found

    def _stated(self, name: str) -> str:
        """The picture's path relative to the root as the JSON file states it, empty where it states none."""
        own = self._content(name).get("imagePath")
        if not isinstance(own, str):
            return ""
        parts: list[str] = []
        for part in (PurePosixPath(name).parent / own.replace("\\", "/")).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        return self._spelled("/".join(parts))

    def _spelled(self, path: str) -> str:
        """The path with its ending in the letters in which files of that name have it."""
        folder, slash, name = path.rpartition("/")
        return folder + slash + with_ending_spelled(name, self._places)

    @cached_property
    def _places(self) -> dict[str, list[str]]:
        """File name -> paths."""
        found: dict[str, list[str]] = {}
        for path in self._all_files:
            found.setdefault(path.rpartition("/")[2], []).append(path)
        return found


def drawn(shape: Mapping[str, Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The pixels ``(H, W)`` of a shape, as labelme draws it.

    Args:
        where: what errors call the shape.

    Raises:
        InputError: a kind of shape that is not known, or too few points.
    """
    kind, points = shape.get("shape_type") or "polygon", [tuple(point) for point in shape["points"]]
    kind = "polygon" if kind in TURNED_RECTANGLES else kind
    canvas = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    fewest = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1, "mask": 2}
    if kind not in fewest or len(points) < fewest[kind] or any(len(point) != 2 for point in points):
        raise InputError(
            f"{where} is a {kind} of {len(points)} points, expected one of"
            f" {', '.join(f'{name} ({count} points)' for name, count in fewest.items())}: draw it again"
        )
    if kind == "mask":
        left, top = (round(value) for value in _corners(points)[:2])
        return pasted(_unpacked(shape, where), left, top, size)
    if kind == "polygon":
        draw.polygon(points, outline=1, fill=1)
    elif kind == "rectangle":
        draw.rectangle(_corners(points), outline=1, fill=1)
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=1, width=LINE_WIDTH)
    else:
        radius = math.dist(points[0], points[1]) if kind == "circle" else POINT_RADIUS
        x, y = points[0]
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    return np.asarray(canvas) > 0


def _unpacked(shape: Mapping[str, Any], where: str) -> NDArray[np.bool_]:
    """The pixels of a shape that holds those inside its box as a PNG file in base64."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",))
        return np.asarray(picture.convert("L")) > 0
    except Exception as error:  # whatever Pillow makes of a damaged PNG
        raise InputError(f"{where} has a mask that cannot be read ({error}): draw it again") from None


def _corners(points: Sequence[Any]) -> list[float]:
    """Left, top, right, bottom: of two opposite corners, or, as X-AnyLabeling writes them, of all four."""
    across, down = zip(*points, strict=True)
    return [min(across), min(down), max(across), max(down)]


def _is_labelme(path: Path) -> bool:
    try:
        content = path.read_bytes()
        return b'"shapes"' in content and any(key in content for key in PICTURE)
    except OSError:
        return False

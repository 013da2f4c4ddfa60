"""Projects of the annotation platform Supervisely in its own format (https://developer.supervisely.com)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.decoding import Color, open_picture
from segmodels.data.folder_files import data_files_below
from segmodels.data.layouts.base import Layout, LayoutCard, Sample, register_layout
from segmodels.data.layouts.coco_json import BACKGROUND, with_background
from segmodels.data.layouts.object_masks import annotation_of_masks, pasted
from segmodels.data.layouts.splits import splits_by_folder
from segmodels.data.limits import MOST_PIXELS, require_size
from segmodels.errors import InputError
from segmodels.files import parse_json, reading
from segmodels.labels import LabelMap
from segmodels.suggest import nearest

META = "meta.json"
CLASSES = {"classes": [{"title": str}]}
FORM = {"size": {"height": int, "width": int}, "objects": [{"classTitle": str, "geometryType": str}]}
WITHOUT_AREA = ("point", "line", "graph", "cuboid", "cuboid_2d", "any", "alpha_mask")
"""Kinds of objects that are left out."""


@register_layout(
    "supervisely",
    LayoutCard(
        "projects of Supervisely in its own format",
        "https://developer.supervisely.com/getting-started/supervisely-annotation-format",
        get="download the project from Supervisely in its JSON format, with images",
    ),
)
class Supervisely(Layout):
    """A project of Supervisely. Class 0 is the background, the others are those of ``meta.json`` in its order.

    Polygons (with holes), bitmaps and rectangles are objects, later ones above earlier ones; points, lines and the like
    are left out. Datasets are splits where they have names of two splits or more. Images without annotation, and the
    reverse, are left out.
    """

    marks = "meta.json beside DATASET/img/ and DATASET/ann/"
    tree: ClassVar[str] = """\
meta.json                         classes and their colours
DATASET/img/0001.jpg
DATASET/ann/0001.jpg.json         objects; the ending of the image may be missing
"""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        if not (self.root / META).is_file():
            raise self.not_organised()

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / META).is_file() and any((path.parent / "img").is_dir() for path in root.glob("*/ann"))

    @cached_property
    def _colors(self) -> dict[str, Color]:
        """Class -> colour; black where the file has none."""
        with reading(self.root / META, damaged="download the project again"):
            rows = parse_json((self.root / META).read_bytes(), CLASSES)["classes"]
            digits = {row["title"]: str(row.get("color", "")).lstrip("#").ljust(6, "0")[:6] for row in rows}
            return {title: (int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)) for title, text in digits.items()}

    @cached_property
    def labels(self) -> LabelMap:
        named = {title: color for title, color in self._colors.items() if title.lower() != BACKGROUND}
        return with_background(list(named), list(named.values()), {place + 1: place for place in range(len(named))})

    def samples(self) -> Iterable[Sample]:
        images, tables = {}, {}
        for name in data_files_below(self.root):
            path = PurePosixPath(name)
            if path.parent.name == "img":
                images[str(path.parent.parent / path.name)] = name
            elif path.parent.name == "ann" and path.suffix == ".json":
                tables[str(path.parent.parent / path.stem)] = name
        pairs = {
            image: tables[key]
            for name, image in images.items()
            if (key := next((key for key in (name, str(PurePosixPath(name).with_suffix(""))) if key in tables), ""))
        }
        used = {*pairs, *pairs.values()}
        self.left_out = [name for name in (*images.values(), *tables.values()) if name not in used]
        ids = {image: str(PurePosixPath(image.replace("/img/", "/", 1)).with_suffix("")) for image in pairs}
        splits = splits_by_folder(self.root, ids.values())
        for image, sample in ids.items():
            yield Sample(sample, splits.get(sample), image, (pairs[image],), group=sample)

    def annotation_size(self, sample: Sample) -> tuple[int, int] | None:
        size = self._content(sample)["size"]
        return size["height"], size["width"]

    def annotation(self, sample: Sample) -> Annotation | None:
        content, file = self._content(sample), sample.files[0]
        size = content["size"]["height"], content["size"]["width"]
        require_size(size, file)
        classes = np.zeros(size, self.labels.dtype)
        masks, segments = [], []
        for number, shape in enumerate(content["objects"], start=1):
            if shape["geometryType"] in WITHOUT_AREA:
                continue
            label = self._label(shape["classTitle"], file)
            mask = drawn(shape, size, f"{file}: object {number}")
            classes[mask] = label
            if label in self.labels.things:
                masks.append(mask)
                segments.append(Segment(len(masks), label))
        return annotation_of_masks(classes, masks, segments)

    def _content(self, sample: Sample) -> dict[str, Any]:
        path = self.root / sample.files[0]
        with reading(path, damaged="download the project again"):
            content: dict[str, Any] = parse_json(path.read_bytes(), FORM)
            return content

    def _label(self, title: str, file: str) -> int:
        """Train id."""
        if title.lower() == BACKGROUND:
            return 0
        if title not in self.labels.classes:
            raise InputError(f"{file}: {nearest('class', title, self.labels.classes)}")
        return self.labels.classes.index(title)


def drawn(shape: Mapping[str, Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The pixels ``(H, W)`` of an object, as Supervisely's own library draws it.

    Args:
        where: what errors call the object.

    Raises:
        InputError: another kind of object, or a broken one.
    """
    try:
        if shape["geometryType"] == "bitmap":
            left, top = (int(value) for value in shape["bitmap"]["origin"])
            return pasted(_unpacked(shape["bitmap"], where), left, top, size)
        outside = np.rint(np.array(shape["points"]["exterior"], float)).astype(np.int32).reshape(-1, 2)
        inside = [
            np.rint(np.array(hole, float)).astype(np.int32).reshape(-1, 2)
            for hole in shape["points"].get("interior", ())
        ]
        canvas = np.zeros(size, np.uint8)
        if shape["geometryType"] == "rectangle":
            (left, top), (right, bottom) = outside.min(axis=0), outside.max(axis=0)
            canvas[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = 1
        elif shape["geometryType"] == "polygon":
            cv2.fillPoly(canvas, [outside], (1,))
            cv2.fillPoly(canvas, inside, (0,))
        else:
            raise ValueError(f"it is a {shape['geometryType']}")
        return canvas > 0
    except (KeyError, TypeError, ValueError, IndexError, zlib.error, cv2.error) as error:
        raise InputError(
            f"{where} cannot be drawn ({error}), expected a polygon, rectangle or bitmap: draw it again"
        ) from None


def _unpacked(bitmap: Mapping[str, Any], where: str) -> NDArray[np.bool_]:
    """The pixels of a deflated PNG file in base64; where it has alpha, that is the mask."""
    inflate = zlib.decompressobj()
    data = inflate.decompress(base64.b64decode(bitmap["data"]), MOST_PIXELS)
    if inflate.unconsumed_tail:
        raise ValueError(f"its bitmap holds more than {MOST_PIXELS:,} bytes")
    picture = open_picture(data, where)
    return np.asarray(picture.getchannel("A") if picture.mode in ("RGBA", "LA") else picture.convert("L")) > 0

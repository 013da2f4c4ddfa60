"""Predictions as files of annotation tools, for correction by hand: labelme and COCO."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from components.running.atomic import written_file
from segmodels import run_lengths
from segmodels.data.decoding import SIDEWAYS, picture_orientation
from segmodels.data.geometry import as_stored
from segmodels.data.layouts.coco_json import BACKGROUND
from segmodels.data.layouts.labelme import BACKGROUND as LABELME_BACKGROUND
from segmodels.data.layouts.labelme import IGNORED, LIST
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.labels import LabelMap
    from segmodels.results import Region

TOLERANCE = 1.0
"""Pixels by which a polygon may leave the border of its region; few points are easier to move by hand."""


class AnnotationFiles(Protocol):
    """Takes the results of images, by their paths relative to the folder of images, from several threads."""

    def add(self, path: Path, size: tuple[int, int], regions: list[Region]) -> None:
        """The regions of an image of ``size`` (height, width)."""

    def close(self) -> None:
        """Called after the last image."""


def annotation_files(tool: str, folder: Path, out: Path, labels: LabelMap) -> AnnotationFiles:
    """Files of ``tool``, labelme or coco, about the images below ``folder``, in ``out``.

    Raises:
        InputError: another tool.
    """
    if tool not in ("labelme", "coco"):
        raise InputError(f"--annotations is {tool!r}, expected labelme or coco")
    kind, path = (Labelme, out / "labelme") if tool == "labelme" else (Coco, out / "coco.json")
    return kind(folder, path, labels)


class Labelme:
    """labelme/NAME.json for each image, and labelme/labels.txt.

    Polygons are drawn in the order of the file, large ones first, so that regions inside others stay visible.
    """

    def __init__(self, folder: Path, out: Path, labels: LabelMap) -> None:
        self._folder, self._out, self._labels = folder, out, labels

    def add(self, path: Path, size: tuple[int, int], regions: list[Region]) -> None:
        target = self._out / path.with_suffix(".json")
        shapes = []
        for number, region in enumerate(regions, start=1):
            name = self._labels.classes[region.label]
            background = name == BACKGROUND
            found = _polygons(region.mask, enclosed=background)
            group = number if len(found) > 1 and not background else None
            label = LABELME_BACKGROUND if background else name
            shapes += [(area, _shape(label, points, group)) for area, points in found]
        content: dict[str, Any] = {
            "version": "5.0.0",
            "flags": {},
            "shapes": [shape for _, shape in sorted(shapes, key=lambda pair: -pair[0])],
            "imagePath": os.path.relpath(self._folder / path, target.parent).replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
        }
        with written_file(target) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def close(self) -> None:
        names = [name for name in self._labels.classes if name != BACKGROUND]
        with written_file(self._out / LIST) as partial:
            partial.write_text("\n".join((IGNORED, LABELME_BACKGROUND, *names)) + "\n", encoding="utf-8")


class Coco:
    """coco.json of all images, with exact run-length encoded masks; a category's id is the class's train id plus 1.

    Masks lie over the pixels as stored, as in COCO; an EXIF orientation does not turn them.
    """

    def __init__(self, folder: Path, path: Path, labels: LabelMap) -> None:
        self._folder, self._path, self._labels = folder, path, labels
        self._images: list[tuple[str, tuple[int, int], list[dict[str, Any]]]] = []

    def add(self, path: Path, size: tuple[int, int], regions: list[Region]) -> None:
        rows = []
        orientation = picture_orientation(self._folder / path)
        size = size[::-1] if orientation in SIDEWAYS else size
        for region in regions:
            if self._labels.classes[region.label] == BACKGROUND:
                continue
            (counts,) = run_lengths.encode(as_stored(region.mask, orientation)[None])
            left, top, right, bottom = run_lengths.boxes([counts], size)[0].tolist()
            score = {} if region.score is None else {"score": region.score}
            rows.append(
                {
                    "category_id": region.label + 1,
                    "segmentation": {"size": list(size), "counts": counts.decode("ascii")},
                    "area": int(region.mask.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
                | score
            )
        self._images.append((path.as_posix(), size, rows))

    def close(self) -> None:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        ordered = sorted(self._images, key=lambda image: image[0])
        for number, (name, (height, width), rows) in enumerate(ordered, start=1):
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            first = len(annotations) + 1
            annotations += [{"id": first + place, "image_id": number} | row for place, row in enumerate(rows)]
        categories = [
            {"id": train + 1, "name": name, "supercategory": ""}
            for train, name in enumerate(self._labels.classes)
            if name != BACKGROUND
        ]
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        with written_file(self._path) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")


def _polygons(mask: NDArray[np.bool_], *, enclosed: bool) -> list[tuple[float, list[list[float]]]]:
    """Area and points of the outer borders of a mask's parts.

    Args:
        enclosed: only those that do not touch the border of the image.
    """
    height, width = mask.shape
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [contour for contour, links in zip(contours, tree[0] if contours else (), strict=True) if links[3] < 0]
    found = []
    for contour in outer:
        left, top, wide, high = cv2.boundingRect(contour)
        if enclosed and (left == 0 or top == 0 or left + wide == width or top + high == height):
            continue
        points = cv2.approxPolyDP(contour, TOLERANCE, True)[:, 0].astype(float).tolist()
        points += points[-1:] * (3 - len(points))  # parts of one or two pixels
        found.append((cv2.contourArea(contour), points))
    return found


def _shape(label: str, points: list[list[float]], group: int | None) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": "polygon", "flags": {}}

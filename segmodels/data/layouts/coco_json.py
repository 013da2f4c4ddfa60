"""COCO's JSON files of objects, as COCO publishes them and as annotation tools export them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segmodels.annotations import Annotation, Box, Segment
from segmodels.checks import shown
from segmodels.data.classes_file import distinct_colors
from segmodels.data.decoding import Color
from segmodels.data.folder_files import composed, with_ending_spelled
from segmodels.data.layouts.coco_masks import decode_mask
from segmodels.data.layouts.object_masks import annotation_of_masks
from segmodels.data.limits import require_size
from segmodels.errors import InputError
from segmodels.files import check_shape, reading
from segmodels.labels import LabelMap, ignore_index_for

BACKGROUND = "background"
"""The class of pixels without an object."""

FORM = {
    "images": [{"id": (int, str), "file_name": str}],
    "annotations": [{"image_id": (int, str)}],
    "categories": [{"id": int, "name": str}],
}


@dataclass(frozen=True)
class CocoFile:
    """One JSON file.

    Attributes:
        path: of the file.
        name: relative to the dataset's root, for errors.
    """

    path: Path
    name: str

    @cached_property
    def content(self) -> dict[str, Any]:
        """The whole file.

        Raises:
            InputError: missing, no JSON, without images, annotations or categories, of images or categories that share
                an id, or of annotations of which none belongs to an image.
        """
        with reading(self.path, damaged="export the annotations again"):
            content = json.loads(self.path.read_bytes())
            check_shape(content, FORM)
        self._check_ids(content)
        return dict(content)

    @cached_property
    def categories(self) -> dict[int, str]:
        """Id -> name. Without groups that no annotation has: Roboflow adds the project's name as category 0."""
        rows = self.content["categories"]
        used = {id for row in self._annotation_rows() if isinstance(id := row.get("category_id"), int)}
        groups = {row.get("supercategory") for row in rows if row.get("supercategory") != row["name"]}
        return {row["id"]: row["name"] for row in rows if row["id"] in used or row["name"] not in groups}

    @cached_property
    def images(self) -> dict[str, dict[str, Any]]:
        """File name, with ``/``, -> row."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.content["images"]:
            name = str(PurePosixPath(row["file_name"].replace("\\", "/").lstrip("/")))
            if name in found:
                raise InputError(f"{self.name} lists the image {name} twice, expected each once: merge both rows")
            found[name] = row
        return found

    @cached_property
    def annotations(self) -> Mapping[str, list[dict[str, Any]]]:
        """Id of an image, as text -> its annotations: VIA writes ``image_id`` as text, the images' ids as numbers."""
        found = defaultdict(list)
        for row in self._annotation_rows():
            found[str(row["image_id"])].append(row)
        return found

    def require_masks(self) -> None:
        """Raises InputError: none of the annotations has a mask, as in exports of boxes."""
        rows = self._annotation_rows()
        if rows and not any(row.get("segmentation") for row in rows):
            raise InputError(
                f"{self.name} has {len(rows)} annotations and no segmentation, expected polygons or masks, not boxes"
                " alone: draw them, and export the project as segmentation"
            )

    def _annotation_rows(self) -> list[dict[str, Any]]:
        return list(self.content["annotations"])

    def _check_ids(self, content: Mapping[str, Any]) -> None:
        """Raises InputError: images or categories share an id, or no annotation belongs to an image."""
        for kind, name in (("images", "file_name"), ("categories", "name")):
            first: dict[Any, str] = {}
            for row in content[kind]:
                if (other := first.setdefault(row["id"], row[name])) != row[name]:
                    raise InputError(
                        f"{self.name} gives the id {row['id']} to the {kind} {other} and {row[name]}, expected an id of"
                        " its own for each: number them anew"
                    )
        listed, owners = [row["id"] for row in content["images"]], [row["image_id"] for row in content["annotations"]]
        if listed and owners and not set(map(str, listed)) & set(map(str, owners)):
            raise InputError(
                f"{self.name} lists none of the images that its annotations belong to: image_id is"
                f" {shown(owners[0])}, expected the id of an image, such as {shown(listed[0])}: export them together"
            )


def labels_of(files: Iterable[CocoFile]) -> LabelMap:
    """A background and the categories of all files, by name; their train ids are their label ids."""
    names = list(dict.fromkeys(name for file in files for _, name in sorted(file.categories.items())))
    things = [name for name in names if not is_background(name)]
    return with_background(things, distinct_colors(len(things) + 1)[1:], {id + 1: id for id in range(len(things))})


def is_background(name: str) -> bool:
    """Whether a category is what no object covers: ``background``, in labelme ``_background_``."""
    return name.lower().strip("_") == BACKGROUND


def with_background(names: Sequence[str], palette: Sequence[Color], ids: Mapping[int, int]) -> LabelMap:
    """Things ``names``, and before them a black background of the label id 0.

    Args:
        ids: label id -> place in ``names``.
    """
    return LabelMap(
        (BACKGROUND, *names),
        ((0, 0, 0), *palette),
        {0: 0} | {source: place + 1 for source, place in ids.items()},
        ignore_index_for(len(names) + 1),
        frozenset(range(1, len(names) + 1)),
    )


def object_annotation(file: CocoFile, image: Mapping[str, Any], labels: LabelMap) -> Annotation:
    """The objects of an image, and its class map: large objects below small ones, crowds at the bottom.

    Args:
        image: row of ``images``.

    Raises:
        InputError: a segmentation that is none, a category that the file does not list, or an image without a size.
    """
    with reading(file.path, damaged="export the annotations again"):
        check_shape(image, {"height": int, "width": int})
    height, width = image["height"], image["width"]
    require_size((height, width), f"{file.name}, image {image.get('id')}")
    named = {name: train for train, name in enumerate(labels.classes)}
    trains = {id: 0 if is_background(name) else named[name] for id, name in file.categories.items()}
    listed = file.annotations.get(str(image["id"]), ())
    rows = [row for row in listed if row.get("segmentation")]
    masks, segments = [], []
    for row in rows:
        category = row.get("category_id")
        if not isinstance(category, int) or category not in trains:
            raise InputError(
                f"{file.name}: annotation {row.get('id')} has the category {shown(category)}, expected one of"
                f" {sorted(trains)}: correct it"
            )
        masks.append(decode_mask(row["segmentation"], (height, width), f"{file.name}: annotation {row.get('id')}"))
        crowd = is_crowd(row) and not _mask_of_cvat(row)
        segments.append(Segment(len(masks), trains[category], crowd, box_of(row), area_of(row)))
    classes = np.zeros((height, width), labels.dtype)
    sizes = [int(mask.sum()) for mask in masks]
    for place in sorted(range(len(masks)), key=lambda place: (not segments[place].crowd, -sizes[place])):
        classes[masks[place]] = segments[place].label
    annotation = annotation_of_masks(classes, masks, segments)
    return replace(annotation, empty=len(listed) - len(annotation.segments))  # and those without a segmentation


def _mask_of_cvat(row: Mapping[str, Any]) -> bool:
    """Whether CVAT wrote an annotation: it marks every mask, polygons aside, as a crowd."""
    attributes = row.get("attributes")
    return isinstance(attributes, dict) and "occluded" in attributes and not attributes.get("is_crowd")


def stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width in a row of ``images``, None where they are missing."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def box_of(row: Mapping[str, Any]) -> Box | None:
    """Left, top, right, bottom of an annotation's left, top, width, height; None where it states none with an area."""
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return None
    left, top, width, height = map(float, box)
    return (left, top, left + width, top + height) if width > 0 and height > 0 else None


def area_of(row: Mapping[str, Any]) -> float | None:
    """Pixels that an annotation states, None where it states no number."""
    area = row.get("area")
    return area if _is_finite(area) else None


def is_crowd(row: Mapping[str, Any]) -> bool:
    """Whether an annotation is a group of objects that are not told apart."""
    return row.get("iscrowd") in (1, "1")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= 2**53


def stem(name: str) -> str:
    """A path without its ending."""
    return str(PurePosixPath(name).with_suffix(""))


def by_composed_name(files: Iterable[str]) -> dict[str, str]:
    """Path in Unicode's composed form -> path."""
    return {composed(file): file for file in files}


def find_image(name: str, folders: Iterable[str], files: Mapping[str, str]) -> str | None:
    """The path of an image that a JSON file names, in the first of ``folders`` that has it, whose ending may be in
    capitals or not.

    Args:
        files: of the whole dataset, relative to its root: ``by_composed_name``.
    """
    paths = (with_ending_spelled(composed(f"{folder}{name}"), files) for folder in folders)
    return next((files[path] for path in paths if path in files), None)

"""Predictions of objects and segments as the files that COCO's own tools read: pycocotools and panopticapi."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage
from PIL import Image

from components.running.atomic import written_file
from segmodels.data.decoding import picture_orientation
from segmodels.results import Instances, PanopticMap

if TYPE_CHECKING:
    from segmodels.labels import LabelMap

RESULTS, BOXES, IMAGES, PANOPTIC = "results.json", "boxes.json", "images.json", "panoptic.json"


class CocoResults:
    """Takes the results of images, by their paths relative to ``folder``, from several threads, and writes to ``out``.

    Of objects: results.json with the masks, boxes.json with the boxes, lists as COCO's results have them, and
    images.json, the images and categories: ``COCO("images.json").loadRes("results.json")`` reads both. Masks and boxes
    are apart because pycocotools takes the area of a box for that of its mask where a result has both. It takes no
    empty list: where no image has an object, ``COCO("images.json")`` itself is the result.

    Of panoptic maps: panoptic.json and panoptic/NAME.png, R + 256 G + 65536 B of a pixel is the id of its segment, as
    panopticapi reads it. Of class maps: nothing.

    Masks, boxes and maps lie over the pixels as stored, as in COCO; an EXIF orientation does not turn them.

    A category's id is the dataset's own. An image's id is the number that its name is, where all names are different
    numbers (COCO's 000000000139.jpg is 139), else its place among the names, from 1.
    """

    def __init__(self, folder: Path, out: Path, labels: LabelMap) -> None:
        self._folder = folder
        self._out = out
        self._labels = labels
        self._category: dict[int, int] = {}
        for source, train in labels.ids.items():
            self._category.setdefault(train, source)
        self._images: dict[Path, tuple[int, int]] = {}
        self._objects: dict[Path, list[dict[str, Any]]] = {}
        self._segments: dict[Path, list[dict[str, Any]]] = {}

    def add(self, path: Path, result: Any) -> None:
        """The result of an image, as viewers show it."""
        if isinstance(result, Instances | PanopticMap):
            result = result.as_stored(picture_orientation(self._folder / path))
        if isinstance(result, Instances):
            rows = json.loads(result.files(self._labels)[".json"])
            self._objects[path] = [self._object(row) for row in rows]
            self._images[path] = result.size
        elif isinstance(result, PanopticMap):
            self._segments[path] = self._write_map(path, result)
            self._images[path] = result.ids.shape[0], result.ids.shape[1]

    def close(self) -> bool:
        """Called after the last image. Returns whether objects were looked for, and none was found in any image."""
        names = sorted(self._images)
        numbers = [int(name.stem) for name in names if name.stem.isdecimal()]
        own = numbers if len(set(numbers)) == len(names) else range(1, len(names) + 1)
        ids = dict(zip(names, own, strict=True))
        images = [
            {"id": ids[name], "file_name": name.as_posix(), "height": height, "width": width}
            for name, (height, width) in sorted(self._images.items())
        ]
        content = {"info": {}, "licenses": [], "images": images, "annotations": [], "categories": self._categories()}
        if self._objects:
            rows = [{"image_id": ids[name]} | row for name in names for row in self._objects[name]]
            for file, other in ((RESULTS, "bbox"), (BOXES, "segmentation")):
                self._write(file, [{key: value for key, value in row.items() if key != other} for row in rows])
            self._write(IMAGES, content)
        if self._segments:
            maps = [
                {
                    "image_id": ids[name],
                    "file_name": name.with_suffix(".png").as_posix(),
                    "segments_info": self._segments[name],
                }
                for name in names
            ]
            self._write(PANOPTIC, content | {"annotations": maps})
        return bool(self._objects) and not any(self._objects.values())

    def _object(self, row: dict[str, Any]) -> dict[str, Any]:
        del row["class"]
        return row | {"category_id": self._category[row["category_id"]]}

    def _write_map(self, path: Path, result: PanopticMap) -> list[dict[str, Any]]:
        """The picture of a map; its rows."""
        parts = [(result.ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)]
        data = io.BytesIO()
        Image.fromarray(np.stack(parts, axis=2)).save(data, "PNG")
        with written_file(self._out / Path(PANOPTIC).stem / path.with_suffix(".png")) as partial:
            partial.write_bytes(data.getvalue())
        windows = scipy.ndimage.find_objects(result.ids)
        rows = []
        for segment in result.segments:
            down, across = window = windows[segment.id - 1]
            rows.append(
                {
                    "id": segment.id,
                    "category_id": self._category[segment.label],
                    "area": int(np.count_nonzero(result.ids[window] == segment.id)),
                    "bbox": [across.start, down.start, across.stop - across.start, down.stop - down.start],
                    "iscrowd": 0,
                }
            )
        return rows

    def _categories(self) -> list[dict[str, Any]]:
        """Of objects those that are counted, of maps all."""
        labels = self._labels
        return [
            {
                "id": self._category[train],
                "name": name,
                "supercategory": "",
                "isthing": int(train in labels.things),
                "color": list(labels.palette[train]),
            }
            for train, name in enumerate(labels.classes)
            if train in self._category and (self._segments or train in labels.things)
        ]

    def _write(self, name: str, content: Any) -> None:
        with written_file(self._out / name) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")

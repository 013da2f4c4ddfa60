"""Cityscapes' polygons, drawn as its own scripts draw them (cityscapesScripts, ``json2instanceImg.py``)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segmodels.data.layouts.published import ids_by_name
from segmodels.data.limits import require_size
from segmodels.errors import InputError
from segmodels.files import parse_json, reading
from segmodels.suggest import nearest

TABLE = "cityscapes"
PER_CLASS = 1000
"""An object's value is its label id times this, plus its number; smaller values are label ids."""

COUNTED = range(24, 34)
"""Label ids whose objects have numbers: person to bicycle."""

GROUP = "group"
"""End of the label of several objects drawn as one."""

LICENCE_PLATE = "license plate"
"""Has no label id and is not drawn."""

FORM = {"imgHeight": int, "imgWidth": int, "objects": [{"label": str, "polygon": [[float]]}]}


def draw_polygons(path: Path) -> NDArray[np.int64]:
    """The map ``(H, W)`` that ``instanceIds.png`` holds; pixels outside all polygons are 0, unlabelled.

    Raises:
        InputError: the file is missing or damaged, states an absurd size, or has a label that Cityscapes does not have.
    """
    with reading(path, damaged="restore it"):
        content = parse_json(path.read_bytes(), FORM)
    size = content["imgHeight"], content["imgWidth"]
    require_size(size, path)
    ids = ids_by_name(TABLE)
    canvas = Image.new("I", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    numbers: Counter[int] = Counter()
    for shape in content["objects"]:
        label = shape["label"]
        group = label not in ids and label.endswith(GROUP)
        label = label.removesuffix(GROUP) if group else label
        points = [tuple(point[:2]) for point in shape["polygon"]]
        if shape.get("deleted") or label == LICENCE_PLATE or len(points) < 3:
            continue
        if label not in ids:
            raise InputError(f"{path}: {nearest('class', shape['label'], tuple(ids))}")
        value = ids[label]
        if value in COUNTED and not group:
            value = value * PER_CLASS + numbers[value]
            numbers[ids[label]] += 1
        draw.polygon(points, fill=value)
    return np.asarray(canvas).astype(np.int64)

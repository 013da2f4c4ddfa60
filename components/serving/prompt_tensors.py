"""Prompts of a request of the Open Inference Protocol: beside ``images`` the tensors ``points`` and ``boxes``, for
models that take them. Both have a row for each prompt, which begins with the number of its image and of its object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.serving.limits import TooLarge
from segmodels.annotations import Box
from segmodels.errors import InputError
from segmodels.inference.predictor import Predictor
from segmodels.prompts import Click, Prompt, labelled_click
from segmodels.tasks.base import TensorSpec

COLUMNS = {
    "points": ("image", "object", "x", "y", "1 on the object or 0 beside it"),
    "boxes": ("image", "object", "left", "top", "right", "bottom"),
}
MOST_PROMPTS = 1000
"""In a request: each takes a part of a second on a CPU."""


def prompt_specs(predictor: Predictor) -> tuple[TensorSpec, ...]:
    """The further tensors that a model takes; a request may leave them out."""
    if not predictor.task.takes_prompts:
        return ()
    return tuple(TensorSpec(name, "FP32", (-1, len(columns))) for name, columns in COLUMNS.items())


def read_prompts(tensors: Mapping[str, dict[str, Any]], images: NDArray) -> list[list[Prompt]] | None:
    """For each image its prompts, in the order of the objects' numbers; None without tensors of prompts.

    Args:
        tensors: ``points`` and ``boxes``, those that the request has.
        images: of the request, ``(N, H, W, channels)``.

    Raises:
        InputError: a tensor of another form, a number that is none of an image, a label of a click other
            than 1 and 0, or two boxes of one object.
        TooLarge: too many prompts.
    """
    if not tensors:
        return None
    clicks: dict[tuple[int, int], list[Click]] = {}
    boxes: dict[tuple[int, int], Box] = {}
    rows = {name: _rows(name, tensor) for name, tensor in tensors.items()}
    if (count := sum(map(len, rows.values()))) > MOST_PROMPTS:
        raise TooLarge(f"request has {count} points and boxes, expected at most {MOST_PROMPTS}: send several requests")
    for name, own in rows.items():
        for image, number, *values in own.tolist():
            if image not in range(len(images)) or number < 0 or number != int(number):
                raise InputError(
                    f"input {name!r} has a row for image {image:g} and object {number:g}, expected images 0 to"
                    f" {len(images) - 1} and whole numbers of objects from 0"
                )
            key = int(image), int(number)
            if name == "points":
                clicks.setdefault(key, []).append(labelled_click(*values))
            elif key in boxes:
                raise InputError(f"object {key[1]} of image {key[0]} has two boxes, expected one: number the objects")
            else:
                left, top, right, bottom = values
                boxes[key] = left, top, right, bottom
    prompts: list[list[Prompt]] = [[] for _ in images]
    for key in sorted(clicks.keys() | boxes.keys()):
        prompts[key[0]].append(Prompt(clicks.get(key, ()), boxes.get(key)))
    return prompts


def _rows(name: str, tensor: dict[str, Any]) -> NDArray[np.float64]:
    """The rows of a tensor ``(K, columns)``."""
    columns = COLUMNS[name]
    expected = f"expected FP32 of shape [K, {len(columns)}]: {', '.join(columns)} of each"
    try:
        values = np.asarray(tensor["data"], dtype=np.float64)
        count, width = tensor["shape"]
        rows = values.reshape(count, width)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"input {name!r} lacks shape or data, or they do not fit, {expected}") from None
    if tensor.get("datatype") != "FP32" or width != len(columns) or not np.isfinite(rows).all():
        raise InputError(
            f"input {name!r} has the datatype {tensor.get('datatype')!r}, the shape {[count, width]} or values that are"
            f" not finite, {expected}"
        )
    return rows

"""Prompts: clicks on objects and boxes around them, where to place them, and tensors of them for promptable models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.annotations import Box
from segmodels.errors import InputError

NO_CLICK = -1
"""Label of a point that is none, which fills up objects with fewer clicks than others."""


class Prompts(NamedTuple):
    """Prompts for the N objects of each image of a batch; one tensor per image.

    Coordinates are in pixels of the model's input, from its upper left corner: the centre of the first pixel is
    (0.5, 0.5). Models that take clicks alone ignore the other fields.
    """

    points: tuple[Tensor, ...]  # (N, P, 2) float32, x and y
    labels: tuple[Tensor, ...]  # (N, P) int64, 1 on the object, 0 beside it, NO_CLICK for no click
    boxes: tuple[Tensor, ...] | None = None  # (N, 4) float32, left, top, right, bottom; NaN for an object without one
    masks: tuple[Tensor, ...] | None = None  # (N, h, w) logits of earlier answers, ``PromptedOutput.mask_logits``


class Click(NamedTuple):
    """A point in pixels of a mask; the centre of the first pixel is (0.5, 0.5)."""

    x: float
    y: float
    label: int  # 1 on the object, 0 beside it


class Prompt(NamedTuple):
    """What says which object is meant: clicks, a box, or both; in pixels of the image."""

    clicks: Sequence[Click] = ()
    box: Box | None = None


def labelled_click(x: float, y: float, label: float = 1) -> Click:
    """A click of text or of a request; InputError unless ``label`` is 1 or 0."""
    if label not in (0, 1):
        raise InputError(f"point ({x:g}, {y:g}) has the label {label:g}, expected 1 (on the object) or 0 (beside it)")
    return Click(x, y, int(label))


def check_prompt(prompt: Prompt, size: Sequence[int]) -> None:
    """Check a prompt for an image of ``size`` (height, width).

    Raises:
        InputError: a click or a box outside the image, a box without area, or neither click nor box.
    """
    height, width = size[0], size[1]
    inside = f"inside the image of {width} x {height} pixels"
    if not prompt.clicks and prompt.box is None:
        raise InputError("a prompt has neither clicks nor a box, expected at least one: click on the object")
    for x, y, label in prompt.clicks:
        if not (0 <= x <= width and 0 <= y <= height):
            raise InputError(f"point ({x:g}, {y:g}) lies outside, expected one {inside}: give x before y, in pixels")
        labelled_click(x, y, label)
    if prompt.box is None:
        return
    left, top, right, bottom = prompt.box
    if min(prompt.box) < 0 or max(left, right) > width or max(top, bottom) > height:
        raise InputError(
            f"{_shown(prompt.box)} lies outside, expected one {inside}: give left, top, right, bottom, in pixels"
        )
    _check_area(prompt.box)


def parse_prompts(points: Sequence[str], boxes: Sequence[str]) -> list[Prompt]:
    """Prompts from the text that people write, an object each.

    Args:
        points: of each object its clicks, ``x,y`` on it or ``x,y,0`` beside it, with semicolons between them.
        boxes: of each object ``left,top,right,bottom``. Where both are given, the first of each mean the same object,
            and so on.

    Raises:
        InputError: text of another form, a box without area, or other numbers of points than of boxes.
    """
    if points and boxes and len(points) != len(boxes):
        raise InputError(
            f"{len(points)} objects have points and {len(boxes)} have boxes, expected as many of both, as the first of"
            " each mean the same object: give one kind alone, or both for every object"
        )
    clicks = [[_click(text) for text in own.split(";") if text.strip()] for own in points]
    if any(not own for own in clicks):
        raise InputError("points of an object are empty, expected x,y: 120,80")
    numbers = [_numbers("box", text, (4,), "left,top,right,bottom") for text in boxes]
    found: list[Box] = [(left, top, right, bottom) for left, top, right, bottom in numbers]
    for box in found:
        _check_area(box)
    count = max(len(clicks), len(found))
    rows = clicks or [[]] * count
    corners: list[Box | None] = [*found] or [None] * count
    return [Prompt(own, box) for own, box in zip(rows, corners, strict=True)]


def _check_area(box: Box) -> None:
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise InputError(
            f"{_shown(box)} has no area, expected left less than right and top less than bottom: give left, top,"
            " right, bottom"
        )


def _shown(box: Box) -> str:
    left, top, right, bottom = box
    return f"box ({left:g}, {top:g}, {right:g}, {bottom:g})"


def _click(text: str) -> Click:
    return labelled_click(*_numbers("point", text, (2, 3), "x,y on the object or x,y,0 beside it"))


def _numbers(kind: str, text: str, counts: tuple[int, ...], expected: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(map(math.isfinite, values)):
        raise InputError(f"{kind} {text!r} cannot be read, expected {expected}, in pixels")
    return values


def first_click(mask: NDArray[np.bool_]) -> Click:
    """A click on the pixel of a mask ``(H, W)`` that is farthest from its border, as users click (SAM, Kirillov 2023,
    2304.02643, section 7.1).
    """
    return Click(*_innermost(mask), 1)


def random_click(mask: NDArray[np.bool_], rng: np.random.Generator) -> Click:
    """A click on a random pixel of a mask ``(H, W)``, as models are trained (SAM, appendix A)."""
    row, column = np.unravel_index(int(rng.choice(np.flatnonzero(mask))), mask.shape)
    return Click(float(column) + 0.5, float(row) + 0.5, 1)


def next_click(mask: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Click | None:
    """A click in the larger of the missing and the surplus region (Sofiiuk 2021, 2102.06583); None if the prediction
    is right.
    """
    missing, surplus = mask & ~predicted, predicted & ~mask
    if not (missing.any() or surplus.any()):
        return None
    label = int(missing.sum() >= surplus.sum())
    return Click(*_innermost(missing if label else surplus), label)


def corrected(
    prompts: Sequence[Prompt], masks: NDArray[np.bool_], predicted: Iterable[NDArray[np.bool_]]
) -> list[Prompt]:
    """The prompts with one more click each, where the predicted mask is wrong (``next_click``); if it is right, the
    last click is repeated, or the object's middle is clicked.

    Args:
        prompts: of N objects of an image.
        masks: the objects, ``(N, H, W)``.
        predicted: their N masks so far, ``(H, W)`` each.
    """
    further = []
    for prompt, mask, found in zip(prompts, masks, predicted, strict=True):
        usual = prompt.clicks[-1] if prompt.clicks else first_click(mask)
        further.append(prompt._replace(clicks=[*prompt.clicks, next_click(mask, found) or usual]))
    return further


def box_around(mask: NDArray[np.bool_]) -> Box:
    """Of a mask ``(H, W)`` with at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def random_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> Box:
    """The box around a mask ``(H, W)``, each side moved at random by a tenth of the box's length, at most 20 pixels, as
    models are trained (SAM, appendix A).
    """
    left, top, right, bottom = box_around(mask)
    spread = np.array([right - left, bottom - top] * 2) / 10
    moves = np.clip(rng.normal(0, spread), -np.minimum(20, 4 * spread), np.minimum(20, 4 * spread))
    height, width = mask.shape
    moved = np.clip(np.array([left, top, right, bottom]) + moves, 0, [width, height, width, height]).tolist()
    return moved[0], moved[1], moved[2], moved[3]


def prompts_of(objects: Sequence[Sequence[Prompt]], sizes: Sequence[tuple[int, ...]], images: Tensor) -> Prompts:
    """Prompts as tensors for a model, on the device of its images.

    Args:
        objects: of every image, a prompt for each.
        sizes: ``(H, W)`` of the pixels that each image's prompts are in.
        images: ``(B, C, H, W)``, the model's input.
    """
    height, width = images.shape[2:]
    most = max((len(prompt.clicks) for own in objects for prompt in own), default=1)
    boxed = any(prompt.box is not None for own in objects for prompt in own)
    points: list[Tensor] = []
    labels: list[Tensor] = []
    boxes: list[Tensor] = []
    for own, size in zip(objects, sizes, strict=True):
        across, down = width / size[1], height / size[0]
        rows = np.zeros((len(own), most, 2), np.float32)
        kinds = np.full((len(own), most), NO_CLICK)
        corners = np.full((len(own), 4), np.nan, np.float32)
        for number, prompt in enumerate(own):
            for place, click in enumerate(prompt.clicks):
                rows[number, place] = click.x * across, click.y * down
                kinds[number, place] = click.label
            if prompt.box is not None:
                corners[number] = np.array(prompt.box) * (across, down, across, down)
        for found, numbers in ((points, rows), (labels, kinds), (boxes, corners)):
            found.append(torch.from_numpy(numbers).to(images.device, non_blocking=True))
    return Prompts(tuple(points), tuple(labels), tuple(boxes) if boxed else None)


def _innermost(region: NDArray[np.bool_]) -> tuple[float, float]:
    """x and y of the pixel farthest from the region's border; the search is within the box around the region."""
    import scipy.ndimage

    boxes = scipy.ndimage.find_objects(region.astype(np.uint8))
    rows, columns = boxes[0] if boxes else (slice(0, None), slice(0, None))
    distance = scipy.ndimage.distance_transform_edt(np.pad(region[rows, columns], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(columns.start + column) + 0.5, float(rows.start + row) + 0.5

"""Small pictures of samples: the image, and beside it the image under its labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from components.validation.edges import label_borders
from components.validation.object_facts import Oddity, place_of_first
from segmodels.annotations import Annotation, Box, Segment, resize_map
from segmodels.data.decoding import read_pixels, resize_image
from segmodels.data.layouts import Layout, Sample
from segmodels.data.preview import as_rgb, flat
from segmodels.errors import InputError
from segmodels.labels import LabelMap, UnknownLabelsError

SIDE = 224
"""Pixels of the longer side of an image in a picture."""

GAP = 4
"""Pixels between the image and its labels."""

OPACITY = 0.5
QUALITY = 85

MARGIN = 24
"""Pixels around an object that is shown alone."""


def by_hash(samples: Sequence[Sample], most: int) -> dict[str, list[int]]:
    """Split -> positions of at most ``most`` samples, ordered by a hash of their ids: a choice that does not depend on
    the order of the files, and that stays when others are added.
    """
    ranked: dict[str, list[tuple[bytes, int]]] = {}
    for position, sample in enumerate(samples):
        key = hashlib.md5(sample.id.encode(), usedforsecurity=False).digest()
        ranked.setdefault(str(sample.split), []).append((key, position))
    return {split: [position for _, position in sorted(keys)[:most]] for split, keys in ranked.items()}


def picture(image: NDArray, annotation: Annotation | None, labels: LabelMap, around: Box | None = None) -> bytes:
    """JPEG of an image ``(*spatial, C)`` of any type and, beside it, of its labels over it in grey.

    Classes have their colours, black ones none; void is hatched. Objects have colours of their own where the dataset
    has one class of things, else white outlines. Of a volume the slice with most classes is shown.

    Args:
        around: box of an object; the picture then shows it and its surroundings.
    """
    if annotation is None:
        middle = image[len(image) // 2] if image.ndim == 4 else image
        return _jpeg(resize_image(as_rgb(middle), SIDE))
    shown, classes, *layers = flat(image, annotation.classes, *annotation.layers, ignore_index=labels.ignore_index)
    if around is not None and shown.shape[:2] == classes.shape:
        window = _window(around, classes.shape)
        shown, classes, layers = shown[window], classes[window], [layer[window] for layer in layers]
    shown = resize_image(shown, SIDE)
    classes, *layers = (resize_map(map, shown.shape[:2]) for map in (classes, *layers))
    return _jpeg(shown, _labelled(shown, classes, layers, annotation.segments, labels))


def read_picture(layout: Layout, sample: Sample, labels: LabelMap, oddity: Oddity | None = None) -> bytes | None:
    """``picture`` of a sample as far as its files can be read: beside an annotation that means nothing, its file's own
    pixels. None where the image cannot be read.

    Args:
        oddity: the picture shows the first object that is odd so, and its surroundings.
    """
    try:
        image = layout.read_image(sample)
    except InputError:
        return None
    try:
        annotation = layout.annotation(sample)
        around = place_of_first(annotation, labels, oddity) if annotation and oddity else None
        return picture(image, annotation, labels, around)
    except InputError as error:
        mask = None
        with suppress(InputError, IndexError):
            own = error.file if isinstance(error, UnknownLabelsError) else None
            mask = read_pixels(layout.root / (own or sample.files[0]))
    if mask is None or image.ndim == 4:
        return picture(image, None, labels)
    if mask.shape[-1] == 1:  # ids as brightness: the highest is white
        mask = np.rint(mask * (255 / max(float(mask.max()), 1))).astype(np.uint8)
    shown = resize_image(as_rgb(image), SIDE)
    return _jpeg(shown, cv2.resize(as_rgb(mask), shown.shape[1::-1], interpolation=cv2.INTER_NEAREST))


def _labelled(
    image: NDArray[np.uint8], classes: NDArray, layers: Sequence[NDArray], segments: Sequence[Segment], labels: LabelMap
) -> NDArray:
    """``image`` (H, W, 3) in grey under the colours of its labels."""
    drawn = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    own_colours = len(labels.things | {segment.label for segment in segments}) == 1
    maps = [(classes, labels.colorize(classes))]
    maps += [(layer, _colours_of_objects()[layer]) for layer in layers if own_colours]
    for ids, colours in maps:
        coloured = colours.any(axis=-1)
        mixed = cv2.addWeighted(drawn, 1 - OPACITY, colours, OPACITY, 0)
        drawn[coloured] = mixed[coloured]
        borders = label_borders(ids) & coloured
        drawn[borders] = colours[borders]
    if not own_colours:
        for layer in layers:
            drawn[label_borders(layer) & (layer > 0)] = 255
    rows, columns = np.indices(classes.shape)
    hatched = (classes == labels.ignore_index) & ((rows + columns) % 8 < 3)
    drawn[hatched] //= 3
    return drawn


def _colours_of_objects() -> NDArray:
    """``(65536, 3)``: 0 is black, neighbouring ids have hues far apart."""
    hues = (np.arange(65536) * 111 % 180).astype(np.uint8)  # of 0..179; 111/180 is near the golden section
    colours = cv2.cvtColor(np.dstack([hues, np.full_like(hues, 190), np.full_like(hues, 255)]), cv2.COLOR_HSV2RGB)
    colours = colours.reshape(65536, 3)
    colours[0] = 0
    return colours


def _window(box: Box, size: tuple[int, ...]) -> tuple[slice, slice]:
    left, top, right, bottom = map(round, box)
    margin = max(MARGIN, right - left, bottom - top)
    return (
        slice(max(top - margin, 0), min(bottom + margin, size[0])),
        slice(max(left - margin, 0), min(right + margin, size[1])),
    )


def _jpeg(*pictures: NDArray) -> bytes:
    """RGB pictures of one height, side by side."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    beside = [part for one in pictures for part in (gap, one)][1:]
    written, data = cv2.imencode(".jpg", np.hstack(beside)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert written
    return data.tobytes()

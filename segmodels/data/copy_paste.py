"""Objects of one image pasted onto another (Ghiasi 2020, Simple Copy-Paste, 2012.07177)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import MOST_SEGMENTS, Annotation, pack_layers, rows_of

CHOSEN = 0.5
"""Probability that an object of the source is pasted."""


def paste_objects(
    image: NDArray,
    annotation: Annotation,
    source_image: NDArray,
    source: Annotation,
    things: Collection[int],
    rng: np.random.Generator,
) -> tuple[NDArray, Annotation]:
    """The image ``(H, W, C)`` with a random part of the source's objects in front of its own, at the places where they
    are in the source, and its annotation.

    Objects that are hidden altogether are dropped, those that are hidden in part lose these pixels; boxes follow.
    Crowds are not pasted, nor what an object that is left behind covers.

    Args:
        source_image, source: of the same size.
        things: classes whose segments are objects.
        rng: what chooses the objects.
    """
    objects = [row for row in source.segments if row.label in things and not row.crowd]
    drawn = rng.random(len(objects)) < CHOSEN
    first = max((row.id for row in annotation.segments), default=0)
    masks = source.masks(objects)
    masks &= ~np.asarray(masks[~drawn].any(axis=0))
    chosen = [(row, mask) for row, mask, taken in zip(objects, masks, drawn, strict=True) if taken and mask.any()]
    if not chosen or first + len(chosen) > MOST_SEGMENTS:
        return image, annotation
    pasted = pack_layers([mask for _, mask in chosen], source.size)
    cover = np.asarray((pasted > 0).any(axis=0))
    layers = np.zeros((max(len(pasted), len(annotation.layers)), *annotation.size), np.uint16)
    layers[: len(annotation.layers)] = annotation.layers
    layers[:, cover] = 0
    for layer, own in zip(layers, pasted, strict=False):
        np.copyto(layer, own + np.uint16(first), where=own > 0)
    rows = [row._replace(id=first + number) for number, (row, _) in enumerate(chosen, start=1)]
    further = {
        name: np.where(cover, source.further.get(name, labels), labels) for name, labels in annotation.further.items()
    }
    return np.where(cover[..., None], source_image, image), replace(
        annotation,
        classes=np.where(cover, source.classes, annotation.classes),
        layers=layers,
        segments=rows_of(layers, [*annotation.segments, *rows]),
        further=further,
    )

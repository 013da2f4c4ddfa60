"""Masks of single objects, as annotation tools store or draw them, become annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment, pack_layers
from segmodels.data.layouts.id_maps import as_stated


def annotation_of_masks(
    classes: NDArray, masks: Sequence[NDArray[np.bool_]], segments: Sequence[Segment]
) -> Annotation:
    """An annotation of objects that may overlap; those without a pixel are counted as ``empty``.

    Args:
        classes: train ids ``(H, W)``.
        masks: pixels ``(H, W)`` of each object.
        segments: a row for each mask, with the ids 1, 2, ...; box and area follow from the mask where a row has none.
    """
    layers = pack_layers(masks, classes.shape)
    layers = layers[layers.any(axis=(1, 2))]
    found = as_stated(layers, segments)
    return replace(Annotation.of_classes(classes), layers=layers, segments=found, empty=len(segments) - len(found))


def pasted(pixels: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask ``(H, W)`` of ``size`` with ``pixels`` at that place; what lies outside of it is cut off."""
    mask = np.zeros(size, dtype=bool)
    bottom, right = max(top + pixels.shape[0], 0), max(left + pixels.shape[1], 0)
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]
    inside[...] = pixels[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return mask

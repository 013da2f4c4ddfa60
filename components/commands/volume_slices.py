"""Volumes for models of images: predicted slice by slice, as the layouts of slices read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.inference.predictor import Predictor
    from segmodels.prompts import Prompt


def results_of(
    predictor: Predictor, images: Sequence[np.ndarray], prompts: Sequence[Sequence[Prompt] | None]
) -> list[Any]:
    """``predictor.results``; of a volume ``(D, H, W, C)`` where the model takes images, a class map ``(D, H, W)``.

    Raises:
        InputError: as ``Predictor.results``, or the model predicts objects in the slices of a volume.
    """
    if all(image.ndim == predictor.spatial_dims + 1 for image in images):
        return predictor.results(images, prompts=prompts)
    return [
        _of_slices(predictor, image) if image.ndim == 4 else predictor.results([image], prompts=[own])[0]
        for image, own in zip(images, prompts, strict=True)
    ]


def _of_slices(predictor: Predictor, volume: np.ndarray) -> Any:
    from segmodels.data.layouts.slices import slice_of
    from segmodels.results import ClassMap

    slices = predictor.results([slice_of(volume, number, predictor.neighbours) for number in range(len(volume))])
    maps = [result.classes for result in slices if isinstance(result, ClassMap)]
    if len(maps) < len(slices):
        raise InputError(
            "volumes are predicted slice by slice as class maps, but this model predicts objects: choose a model for"
            " semantic segmentation, or give the slices as images"
        )
    return ClassMap(np.stack(maps))

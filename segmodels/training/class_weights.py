"""Weights of the classes from their pixel counts, for losses with an option ``class_weights``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.training.settings import ClassWeights

KINDS = get_args(ClassWeights)


def class_weights(
    kind: str, class_pixels: Sequence[int], present_pixels: Sequence[int], normalize: bool = False
) -> Tensor:
    """Weights float32 ``(C,)`` for the training set's counts, N pixels in all, N_c of class c.

    * ``none``: 1.
    * ``inverse_frequency``: N / N_c.
    * ``complement``: (N - N_c) / N.
    * ``median_frequency``: median of the frequencies / frequency of c, where the frequency is N_c / pixels of the
      images that have c (Eigen and Fergus 2015, 1411.4734), the median over the classes that occur.

    A class that never occurs weighs 0, but 1 under ``none`` and, as its formula says, under ``complement``.

    Args:
        class_pixels: N_c, ignored pixels not counted.
        present_pixels: valid pixels of the images in which c occurs.
        normalize: scale the weights so that those of the classes that occur have the mean 1.

    Raises:
        InputError: unknown kind, or counts that cannot be.
    """
    if kind not in KINDS:
        raise InputError(f"class_weights is {kind!r}, expected one of {', '.join(KINDS)}")
    pixels, images = np.asarray(class_pixels, dtype=np.float64), np.asarray(present_pixels, dtype=np.float64)
    if (
        pixels.ndim != 1
        or pixels.shape != images.shape
        or (pixels < 0).any()
        or (images < pixels).any()
        or pixels.sum() == 0
    ):
        raise InputError(
            f"class pixels are {pixels.tolist()} in images of {images.tolist()} pixels, expected one of each per class,"
            " not more pixels of a class than of its images, and not all 0: preprocess again"
        )
    occurs = pixels > 0
    weights = np.ones(len(pixels)) if kind == "none" else np.zeros(len(pixels))
    if kind == "inverse_frequency":
        weights[occurs] = pixels.sum() / pixels[occurs]
    elif kind == "complement":
        weights = 1 - pixels / pixels.sum()
    elif kind == "median_frequency":
        frequency = pixels[occurs] / images[occurs]
        weights[occurs] = np.median(frequency) / frequency
    if normalize:
        weights /= weights[occurs].mean()
    return torch.from_numpy(weights).float()

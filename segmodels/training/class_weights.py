"""Weights of the classes from their pixel counts, for losses with an option ``class_weights``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.training.settings import ClassWeights


def class_weights(kind: ClassWeights, class_pixels: Sequence[int], present_pixels: Sequence[int]) -> Tensor | None:
    """Weights float32 ``(C,)`` for the training set's counts, N pixels in all, N_c of class c.

    * ``none``: no weights, None.
    * ``inverse_frequency``: N / N_c.
    * ``complement``: (N - N_c) / N.
    * ``median_frequency``: median of the frequencies / frequency of c, where the frequency is N_c / pixels of the
      images that have c (Eigen and Fergus 2015, 1411.4734), the median over the classes that occur.

    A class that never occurs weighs 0, but 1, as its formula says, under ``complement``.

    Args:
        class_pixels: N_c, ignored pixels not counted.
        present_pixels: valid pixels of the images in which c occurs.

    Raises:
        InputError: impossible counts.
    """
    if kind == "none":
        return None
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
    weights = np.zeros(len(pixels))
    if kind == "inverse_frequency":
        weights[occurs] = pixels.sum() / pixels[occurs]
    elif kind == "complement":
        weights = 1 - pixels / pixels.sum()
    else:
        frequency = pixels[occurs] / images[occurs]
        weights[occurs] = np.median(frequency) / frequency
    return torch.from_numpy(weights).float()

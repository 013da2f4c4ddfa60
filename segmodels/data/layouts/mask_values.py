"""From the values of a mask to classes; errors name the file."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segmodels.data.decoding import JPEG
from segmodels.labels import LabelMap, UnknownLabelsError

WHITE = 255


def encode_labels(labels: LabelMap, mask: NDArray, file: str) -> NDArray:
    """``labels.encode(mask)``; an error names the file.

    JPEG changes values: where the label ids are 0 and 255 alone, each pixel of a JPEG file takes the nearer one.
    """
    if labels.ids.keys() == {0, WHITE} and PurePosixPath(file).suffix.lower() in JPEG:
        mask = np.where(mask > WHITE // 2, WHITE, 0)
    try:
        return labels.encode(mask)
    except UnknownLabelsError as error:
        raise UnknownLabelsError(f"{file}: {error}", error.unknown, file) from None


def inside(mask: NDArray, file: str) -> NDArray[np.bool_]:
    """Where a mask of 0 and one other value has the other.

    Raises:
        UnknownLabelsError: it holds further values, as smoothed masks and JPEG files do; names the file.
    """
    highest = mask.max(initial=0)
    other = mask != 0
    between = other & (mask != highest)
    if between.any():
        unknown = np.unique(mask[between]).tolist()
        raise UnknownLabelsError(
            f"{file} holds {len(unknown)} values between 0 and {highest}, expected none: export the mask again as PNG,"
            " without smoothing",
            unknown,
            file,
        )
    return other

"""The form of images (type, channels, number of axes), and the form that all images of a dataset can be given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmodels.errors import InputError

DTYPES = ("uint8", "int8", "uint16", "int16", "float32")
"""Types of images in shards."""

NARROW = 2**13
"""Values of 16 bits that stay below this use an eighth of their range, as those of 12-bit cameras and scanners. As 8
bits such images are nearly black: at most 32 grey levels are left.
"""


@dataclass(frozen=True)
class ImageForm:
    """Type, channels and number of spatial axes of images; alike in all images of a dataset.

    Attributes:
        neighbours: slices of a volume on each side of an image that are among its channels (2.5-D).
    """

    dtype: np.dtype
    channels: int
    spatial_dims: int
    neighbours: int = 0

    @classmethod
    def of(cls, image: NDArray) -> ImageForm:
        """The form of an image ``(*spatial, C)``.

        Raises:
            InputError: a type or number of axes that shards cannot hold.
        """
        if image.dtype.name not in DTYPES or image.ndim not in (3, 4):
            raise InputError(
                f"image has the type {image.dtype} and the shape {image.shape}, expected (H, W, C) or (D, H, W, C) of"
                f" {', '.join(DTYPES)}: convert it"
            )
        return cls(image.dtype, image.shape[-1], image.ndim - 1)

    def __str__(self) -> str:
        kind = "volumes" if self.spatial_dims == 3 else "images"
        return f"{kind} of {self.channels} channel{'s' if self.channels > 1 else ''} {self.dtype}"


RGB = ImageForm(np.dtype(np.uint8), 3, 2)


def common_form(forms: Iterable[ImageForm]) -> ImageForm | None:
    """The form that ``decoding.converted`` can give images of all these forms: grey becomes RGB where some are RGB, 16
    bits become 8 where some have 8. None where there is no such form.
    """
    forms = set(forms)
    dtypes, channels, dims = ({getattr(form, name) for form in forms} for name in ("dtype", "channels", "spatial_dims"))
    if len(dims) != 1 or (len(channels) > 1 and channels != {1, 3}):
        return None
    if len(dtypes) > 1 and dtypes != {np.dtype(np.uint8), np.dtype(np.uint16)}:
        return None
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.uint8)
    return ImageForm(dtype, max(channels), dims.pop())

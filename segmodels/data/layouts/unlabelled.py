"""Images alone, for models that train without labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from segmodels.data.layouts.base import Sample
from segmodels.data.layouts.folder import Folder


class Images(Folder):
    """A dataset as in the layout ``folder``, without ``masks/``.

    The classes file has a line for each segment that the model is to find, under any names. Every pixel of every mask
    is ignored, so that images
    train only what learns without labels (``train.model: wnet``), and nothing can be measured on them.
    """

    name: ClassVar[str] = "images"
    labelled: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("images",)

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        image = self.read_image(sample)
        return image, np.full(image.shape[:2], self.labels.ignore_index, self.labels.dtype)

    def _masks(self) -> dict[str, str]:
        return {}

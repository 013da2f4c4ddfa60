"""What is predicted for an image. Results write and draw themselves."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmodels.labels import LabelMap


@dataclass(frozen=True)
class ClassMap:
    """A class for every pixel.

    Attributes:
        map: train ids ``(*spatial)``: numpy, or a tensor on the device, which is fetched when ``classes`` is read.
    """

    map: Any

    @cached_property
    def classes(self) -> NDArray:
        """Train ids in main memory."""
        return self.map if isinstance(self.map, np.ndarray) else self.map.cpu().numpy()

    def files(self, labels: LabelMap, compress_level: int = 6) -> dict[str, bytes]:
        """A PNG of train ids with the classes' colours as palette; 16-bit grey above 255 classes.

        Args:
            compress_level: of the PNG, 0 (none, fast) to 9.
        """
        from PIL import Image

        if labels.dtype == np.uint8:
            picture = Image.fromarray(self.classes.astype(np.uint8, copy=False))
            picture.putpalette(np.array(labels.palette, dtype=np.uint8).tobytes())
        else:
            picture = Image.fromarray(self.classes.astype(np.uint16))
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=compress_level)
        return {".png": data.getvalue()}

    def draw(self, image: NDArray, labels: LabelMap, alpha: float = 0.6) -> NDArray:
        """The classes' colours over the image ``(H, W, 3)`` uint8 RGB; ``alpha`` is their opacity."""
        from segmodels import plots

        return plots.blend(image, self.classes, labels, alpha)

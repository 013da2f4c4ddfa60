"""What is predicted for an image. Results write and draw themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
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

    def files(self) -> dict[str, bytes]:
        """A PNG of train ids, 8 or 16 bits."""
        pixels = self.classes if self.classes.dtype == np.uint8 else self.classes.astype(np.uint16)
        return {".png": cv2.imencode(".png", pixels)[1].tobytes()}

    def draw(self, image: NDArray, labels: LabelMap) -> NDArray:
        """The classes' colours over the image ``(H, W, 3)`` uint8 RGB."""
        from segmodels import plots

        return plots.blend(image, self.classes, labels)

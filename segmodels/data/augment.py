"""Random scale, crop, flip and colour of a training sample, in uint8, touching no more of the image than the crop
needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# NTSC: RGB -> luma and two chroma axes. Turning the chroma plane turns the hue, stretching it changes the saturation,
# and neither changes luma.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class Augment:
    """Augmentation of one sample; every draw comes from the generator that the call is given.

    Attributes:
        crop: height and width of the result, pixels; None is the image's own size.
        scale: the image is enlarged by a factor drawn uniformly from this range, then cropped at a place drawn
            uniformly. Where the enlarged image is smaller than the crop it lies at a random place in it, surrounded by
            ``fill`` and, in the mask, ``ignore_index``.
        flip: probability of a left-right flip.
        brightness, contrast, saturation: 0.2 draws a factor from 0.8..1.2; contrast is about the crop's mean grey. 0
            switches it off.
        hue: largest turn of the hue, 0.5 is half a turn. 0 switches it off.
        ignore_index: of the mask.
        fill: RGB colour outside the image; ``training_loader`` puts the dataset's mean here.
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    ignore_index: int = 255
    fill: tuple[int, int, int] = (124, 116, 104)

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Crop ``(h, w, 3)`` uint8 and its mask ``(h, w)`` from an image ``(H, W, 3)`` uint8 RGB and a mask ``(H, W)``
        of train ids.

        Only the part of both that the crop shows is read. The image is interpolated linearly (by area when it shrinks
        to less than half), the mask takes the nearest label; both sample at the same pixel centres.
        """
        draws = rng.random(8)  # always eight, so that switching one off leaves the others as they are
        height, width = self.crop or image.shape[:2]
        scale = self.scale[0] + draws[0] * (self.scale[1] - self.scale[0])
        rows, to_rows = _interval(image.shape[0], height, scale, draws[1])
        columns, to_columns = _interval(image.shape[1], width, scale, draws[2])
        size = (to_columns.stop - to_columns.start, to_rows.stop - to_rows.start)

        shrinks = 2 * size[1] < rows.stop - rows.start
        part = cv2.resize(image[rows, columns], size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        labels = cv2.resize(mask[rows, columns], size, interpolation=cv2.INTER_NEAREST_EXACT)
        part = self._jitter(part, *(2 * draws[4:] - 1))
        if size != (width, height):
            margins = to_rows.start, height - to_rows.stop, to_columns.start, width - to_columns.stop
            part = cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=self.fill)
            labels = cv2.copyMakeBorder(labels, *margins, cv2.BORDER_CONSTANT, value=self.ignore_index)
        if draws[3] < self.flip:
            part, labels = cv2.flip(part, 1), cv2.flip(labels, 1)
        return part, labels

    def _jitter(
        self, image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float
    ) -> np.ndarray:
        """One affine map of colour for all four; the arguments are draws from -1..1."""
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return image
        gain, slope, chroma = (
            1 + brightness * self.brightness,
            1 + contrast * self.contrast,
            1 + saturation * self.saturation,
        )
        turn = 2 * np.pi * hue * self.hue
        cos, sin = chroma * np.cos(turn), chroma * np.sin(turn)
        matrix = np.empty((3, 4))
        matrix[:, :3] = gain * slope * (_RGB @ [[1, 0, 0], [0, cos, -sin], [0, sin, cos]] @ _YIQ)
        matrix[:, 3] = (1 - slope) * gain * (_YIQ[0] @ cv2.mean(image)[:3])
        return cv2.transform(image, matrix)


def _interval(length: int, crop: int, scale: float, draw: float) -> tuple[slice, slice]:
    """Along one axis: the source pixels that the crop shows, and the pixels of the crop that they fill."""
    window = max(1, round(crop / scale))  # source pixels under the crop, some possibly outside of the image
    low, high = min(0, length - window), max(0, length - window)
    start = low + int(draw * (high - low + 1))
    first, last = max(start, 0), min(start + window, length)
    begin = min(round((first - start) * crop / window), crop - 1)
    end = max(round((last - start) * crop / window), begin + 1)
    return slice(first, last), slice(begin, end)

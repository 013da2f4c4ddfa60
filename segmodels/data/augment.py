"""Random scale, crop, flip and colour of a training sample, touching no more of the image than the crop needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation, resize_map, rows_of
from segmodels.checks import LONGEST_SIDE, check, each, number, optional, whole_number
from segmodels.data.geometry import flip, place, resize_image
from segmodels.errors import InputError

# NTSC: RGB -> luma and two chroma axes. Turning the chroma plane turns the hue, stretching it changes the saturation,
# and neither changes luma.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


class Outside(NamedTuple):
    """Values of the pixels of a crop that lie outside the image.

    Attributes:
        image: per channel; empty: 0.
        classes: of the class map, ``LabelMap.ignore_index``.
        further: of each further map, its own ignore index.
    """

    image: tuple[float, ...] = ()
    classes: int = 255
    further: Mapping[str, int] = MappingProxyType({})


ZEROS = Outside()
"""Black, and 255 in every map."""


@dataclass(frozen=True)
class Augment:
    """Augmentation of one sample; every draw comes from the generator that the call is given.

    Attributes:
        crop: size of the result in pixels, ``(height, width)`` or ``(depth, height, width)``. None: the image's own
            size.
        scale: the image is enlarged by a factor drawn uniformly from this range, then cropped at a place drawn
            uniformly. Where the enlarged image is smaller than the crop it lies at a random place in it.
        flip: probability of a left-right flip; of a volume, the probability for each of the three axes.
        brightness: largest change of the brightness: 0.2 draws a factor from 0.8..1.2. 0: off.
        contrast: largest change of the contrast, as brightness, about the crop's mean: the mean grey of 8-bit RGB, else
            the mean of each channel.
        saturation: largest change of the saturation, as brightness; of 8-bit RGB images only.
        hue: largest turn of the hue, 0.5 is half a turn; of 8-bit RGB images only. 0: off.
        copy_paste: probability that objects of another training image, augmented alike, are pasted onto this one
            (Ghiasi 2020, 2012.07177, where it goes with a scale of 0.1 to 2). 0: off.
    """

    crop: tuple[int, ...] | None = None
    scale: tuple[float, float] = (0.75, 1.5)
    flip: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0
    copy_paste: float = 0.0

    def __post_init__(self) -> None:
        factor = number(0, below=1)
        check(
            self,
            crop=optional(each(whole_number(1, LONGEST_SIDE))),
            flip=number(0, 1),
            brightness=factor,
            contrast=factor,
            saturation=factor,
            hue=number(0, 0.5),
            copy_paste=number(0, 1),
        )
        if not 0.01 <= self.scale[0] <= self.scale[1] <= 100:
            raise InputError(
                f"scale is {list(self.scale)}, expected 0.01 <= low <= high <= 100: set [1, 1] for no scaling"
            )

    def check(self, channels: int, dtype: np.dtype, spatial_dims: int) -> None:
        """Whether images ``(*spatial, channels)`` of this type can be augmented so.

        Raises:
            InputError: a crop with another number of axes, or saturation or hue of other images than 8-bit RGB.
        """
        if self.crop is not None and len(self.crop) != spatial_dims:
            axes = "[depth, height, width]" if spatial_dims == 3 else "[height, width]"
            raise InputError(
                f"train.augment.crop is {list(self.crop)} but the images have {spatial_dims} axes, expected {axes}"
            )
        for name in ("saturation", "hue"):
            if (value := getattr(self, name)) and not _is_rgb(channels, dtype, spatial_dims):
                kind = "volumes" if spatial_dims == 3 else "images"
                raise InputError(
                    f"train.augment.{name} is {value:g} but the {kind} have {channels} channel{'s' * (channels > 1)} of"
                    f" {dtype}, expected 3 channels of uint8 (RGB): set train.augment.saturation and train.augment.hue"
                    " to 0"
                )

    def __call__(
        self, image: NDArray, annotation: Annotation, rng: np.random.Generator, outside: Outside = ZEROS
    ) -> tuple[NDArray, Annotation]:
        """Crop of an image ``(*spatial, C)``, integers of up to 16 bits or float32, and of its annotation.

        Only the part of both that the crop shows is read. The image is interpolated linearly (by area when it shrinks
        to less than half), maps take the nearest label; all sample at the same pixel centres. Segments without a pixel
        in the crop are dropped; boxes and areas of the others are those of the map.
        """
        dims = image.ndim - 1
        flips = 1 if dims == 2 else dims
        draws = rng.random(5 + dims + flips)  # always as many: switching one off leaves the others as they are
        scale = self.scale[0] + draws[0] * (self.scale[1] - self.scale[0])
        drawn = draws[1 + dims : 1 + dims + flips] < self.flip
        turned = tuple(axis for axis, chosen in zip(range(dims)[-flips:], drawn, strict=True) if chosen)
        window = _Window.of(image.shape[:-1], self.crop or image.shape[:-1], scale, draws[1:], turned)
        part = self._jitter(window.resized(image), *(2 * draws[-4:] - 1))
        values = outside.image or (0.0,) * image.shape[-1]
        return window.placed(part, values), _seen_through(window, annotation, outside)

    def _jitter(self, image: NDArray, brightness: float, contrast: float, saturation: float, hue: float) -> NDArray:
        """One affine map of colour for all four; the arguments are draws from -1..1."""
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return image
        gain, slope, chroma = (
            1 + brightness * self.brightness,
            1 + contrast * self.contrast,
            1 + saturation * self.saturation,
        )
        if not _is_rgb(image.shape[-1], image.dtype, image.ndim - 1):
            return _stretch(image, gain, slope)
        turn = 2 * np.pi * hue * self.hue
        cos, sin = chroma * np.cos(turn), chroma * np.sin(turn)
        matrix = np.empty((3, 4))
        matrix[:, :3] = gain * slope * (_RGB @ [[1, 0, 0], [0, cos, -sin], [0, sin, cos]] @ _YIQ)
        matrix[:, 3] = (1 - slope) * gain * (_YIQ[0] @ cv2.mean(image)[:3])
        return cv2.transform(image, matrix)


class _Window(NamedTuple):
    """The region of an image that a crop shows."""

    source: tuple[slice, ...]  # of the image
    target: tuple[slice, ...]  # of the crop
    size: tuple[int, ...]  # of the crop
    turned: tuple[int, ...]  # axes that are flipped

    @classmethod
    def of(
        cls, spatial: Sequence[int], size: Sequence[int], scale: float, draws: NDArray, turned: tuple[int, ...]
    ) -> _Window:
        axes = [_interval(length, crop, scale, draw) for length, crop, draw in zip(spatial, size, draws, strict=False)]
        source, target = zip(*axes, strict=True)
        return cls(source, target, tuple(size), turned)

    @property
    def filled(self) -> tuple[int, ...]:
        """Size of the part of the crop that shows the image."""
        return tuple(part.stop - part.start for part in self.target)

    def resized(self, image: NDArray) -> NDArray:
        read = [part.stop - part.start for part in self.source]
        return resize_image(image[self.source], self.filled, average=2 * self.filled[0] < read[0])

    def placed(self, part: NDArray, value: float | Sequence[float]) -> NDArray:
        corner = [axis.start for axis in self.target]
        return flip(place(part, self.size, corner, value), self.turned, len(self.size))

    def labels(self, labels: NDArray, value: int) -> NDArray:
        return self.placed(resize_map(labels[self.source], self.filled), value)


def _seen_through(window: _Window, annotation: Annotation, outside: Outside) -> Annotation:
    """The annotation of the crop."""
    layers = [window.labels(layer, 0) for layer in annotation.layers]
    spacing = annotation.spacing
    if spacing is not None:
        read = [part.stop - part.start for part in window.source]
        spacing = tuple(mm * a / b for mm, a, b in zip(spacing, read, window.filled, strict=True))
    return replace(
        annotation,
        classes=window.labels(annotation.classes, outside.classes),
        layers=np.stack(layers) if layers else np.zeros((0, *window.size), np.uint16),
        segments=rows_of(layers, annotation.segments),
        further={
            name: window.labels(labels, outside.further.get(name, 255)) for name, labels in annotation.further.items()
        },
        spacing=spacing,
    )


def _interval(length: int, crop: int, scale: float, draw: float) -> tuple[slice, slice]:
    """Along one axis: the source pixels that the crop shows, and the pixels of the crop that they fill."""
    window = max(1, round(crop / scale))  # source pixels under the crop, some possibly outside of the image
    low, high = min(0, length - window), max(0, length - window)
    start = low + int(draw * (high - low + 1))
    first, last = max(start, 0), min(start + window, length)
    begin = min(round((first - start) * crop / window), crop - 1)
    end = max(round((last - start) * crop / window), begin + 1)
    return slice(first, last), slice(begin, end)


def _is_rgb(channels: int, dtype: np.dtype, spatial_dims: int) -> bool:
    return (channels, dtype, spatial_dims) == (3, np.uint8, 2)


def _stretch(image: NDArray, gain: float, slope: float) -> NDArray:
    """Brightness (``gain``) and contrast (``slope``, about each channel's mean); integers stay in their range."""
    mean = image.mean(axis=tuple(range(image.ndim - 1)), dtype=np.float64)
    values = image * np.float32(gain * slope) + (gain * (1 - slope) * mean).astype(np.float32)
    if np.issubdtype(image.dtype, np.integer):
        bounds = np.iinfo(image.dtype)
        values = np.rint(values).clip(bounds.min, bounds.max)
    return values.astype(image.dtype)

"""What a dataset looks like in numbers: colour mean and deviation, pixels per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts over the shards of a dataset.

    Colour and class counts are of the train split alone. Ignored pixels count for colour, not for classes.

    Attributes:
        mean, std: per channel R, G, B, in units of 0..255, over all train pixels.
        class_pixels: labelled train pixels of each class, int64 ``(C,)`` as a tuple.
        present_pixels: for each class, the labelled pixels of all train images in which it occurs.
        images: samples per split.
        pixels: image pixels per split.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_pixels: tuple[int, ...]
    present_pixels: tuple[int, ...]
    images: Mapping[str, int]
    pixels: Mapping[str, int]

    @property
    def class_frequencies(self) -> tuple[float, ...]:
        """Share of each class in the labelled train pixels; sums to 1."""
        total = max(sum(self.class_pixels), 1)
        return tuple(count / total for count in self.class_pixels)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` is the inverse."""
        return asdict(self) | {"class_frequencies": list(self.class_frequencies)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DatasetStatistics:
        mean, std = (tuple(float(value) for value in data[key]) for key in ("mean", "std"))
        return cls(
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            class_pixels=tuple(int(count) for count in data["class_pixels"]),
            present_pixels=tuple(int(count) for count in data["present_pixels"]),
            images=dict(data["images"]),
            pixels=dict(data["pixels"]),
        )


@dataclass(frozen=True)
class SampleCounts:
    """Exact integer counts of one sample, to be summed in any order.

    Attributes:
        colors: how often each value 0..255 occurs in each channel, int64 ``(3, 256)``.
        classes: labelled pixels per class, int64 ``(C,)``.
    """

    colors: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, mask: np.ndarray, num_classes: int) -> SampleCounts:
        """Count an image ``(H, W, 3)`` uint8 and its mask ``(h, w)`` of train ids; ids outside 0..C-1 are ignored
        pixels.
        """
        colors = np.stack([np.bincount(image[:, :, channel].ravel(), minlength=256) for channel in range(3)])
        labelled = mask[(mask >= 0) & (mask < num_classes)]
        return cls(colors, np.bincount(labelled, minlength=num_classes))


class StatisticsBuilder:
    """Sums ``SampleCounts`` to ``DatasetStatistics``."""

    def __init__(self, num_classes: int) -> None:
        self._colors = np.zeros((3, 256), dtype=np.int64)
        self._class_pixels = np.zeros(num_classes, dtype=np.int64)
        self._present_pixels = np.zeros(num_classes, dtype=np.int64)
        self._images: dict[str, int] = {}
        self._pixels: dict[str, int] = {}

    def add(self, split: str, counts: SampleCounts) -> None:
        """Count one more sample of a split."""
        self._images[split] = self._images.get(split, 0) + 1
        self._pixels[split] = self._pixels.get(split, 0) + int(counts.colors[0].sum())
        if split == "train":
            self._colors += counts.colors
            self._class_pixels += counts.classes
            self._present_pixels += np.where(counts.classes > 0, counts.classes.sum(), 0)

    def build(self) -> DatasetStatistics:
        """The statistics of all samples so far."""
        values = np.arange(256, dtype=np.float64)
        total = np.maximum(self._colors.sum(axis=1), 1)
        mean = self._colors @ values / total
        variance = (self._colors * (values[None, :] - mean[:, None]) ** 2).sum(axis=1) / total
        return DatasetStatistics(
            mean=_triple(mean),
            std=_triple(np.sqrt(variance)),
            class_pixels=tuple(self._class_pixels.tolist()),
            present_pixels=tuple(self._present_pixels.tolist()),
            images=dict(self._images),
            pixels=dict(self._pixels),
        )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue

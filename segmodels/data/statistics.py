"""Statistics of a dataset: mean and deviation of every channel, pixels per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

EXACT_IN_FLOAT32 = 2**24
"""Whole numbers up to this have a float32 each."""

EQUAL = 1e-7
"""Share of a channel's mean up to which a deviation is that of equal values, which float32 cannot tell apart."""


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts over the shards of a dataset.

    Mean, deviation and class counts are of the train split alone. Ignored pixels count for mean and deviation, not for
    classes.

    Attributes:
        mean, std: of each channel over all train pixels, in the units of the images: 0..255 of uint8. The deviation of
            a channel that is the same everywhere is 1 when it is read, because images are divided by it.
        class_pixels: labelled train pixels of each class, int64 ``(C,)`` as a tuple.
        present_pixels: for each class, the labelled pixels of all train images in which it occurs.
        images: samples per split.
        pixels: image pixels per split.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
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
        """The inverse of ``to_dict``. Raises KeyError, TypeError or ValueError where ``data`` is none."""
        mean, std = (tuple(float(value) for value in data[key]) for key in ("mean", "std"))
        return cls(
            mean=mean,
            std=tuple(own if own > EQUAL * abs(middle) else 1.0 for middle, own in zip(mean, std, strict=True)),
            class_pixels=tuple(int(count) for count in data["class_pixels"]),
            present_pixels=tuple(int(count) for count in data["present_pixels"]),
            images=dict(data["images"]),
            pixels=dict(data["pixels"]),
        )


@dataclass(frozen=True)
class Histogram:
    """How often each value ``low``, ``low + 1``, ... occurs in each channel, int64 ``(C, n)``: of integers, exact."""

    low: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, image: NDArray) -> Histogram:
        """The histogram of an image ``(*spatial, C)`` of integers up to 16 bits."""
        if image.dtype == np.uint8:
            return cls(0, _of_bytes(image))
        low, n = int(image.min()), int(image.max()) - int(image.min()) + 1
        shifted = (channel.ravel().astype(np.int32) - low for channel in _channels(image))
        return cls(low, np.stack([np.bincount(values, minlength=n) for values in shifted]))

    @property
    def pixels(self) -> int:
        """Number of pixels that were counted."""
        return int(self.counts[0].sum())


@dataclass(frozen=True)
class Moments:
    """Number of floating-point values, and per channel their sum and squared distance from their own mean."""

    pixels: int
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, image: NDArray) -> Moments:
        """The moments of an image ``(*spatial, C)`` float32."""
        channels = [np.ascontiguousarray(channel, np.float64).ravel() for channel in _channels(image)]
        sums = np.array([values.sum() for values in channels])
        squares = [((values - total / values.size) ** 2).sum() for values, total in zip(channels, sums, strict=True)]
        return cls(channels[0].size, sums, np.array(squares))

    def to_list(self) -> list[Any]:
        """For JSON, which keeps every bit of a float; ``from_list`` is the inverse."""
        return [self.pixels, self.sums.tolist(), self.squares.tolist()]

    @classmethod
    def from_list(cls, data: Sequence[Any]) -> Moments:
        pixels, sums, squares = data
        return cls(int(pixels), np.array(sums, np.float64), np.array(squares, np.float64))


@dataclass(frozen=True)
class SampleCounts:
    """The contribution of one sample to the statistics.

    Attributes:
        values: of the image's channels.
        classes: labelled pixels per class, int64 ``(C,)``.
    """

    values: Histogram | Moments
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, image: NDArray, classes: NDArray | None, num_classes: int) -> SampleCounts:
        """Count an image ``(*spatial, C)`` and its map of train ids, None without annotation; ids outside 0..C-1 are
        ignored pixels.
        """
        values = Moments.of(image) if image.dtype.kind == "f" else Histogram.of(image)
        if classes is None:
            return cls(values, np.zeros(num_classes, np.int64))
        labelled = classes[(classes >= 0) & (classes < num_classes)]
        return cls(values, np.bincount(labelled, minlength=num_classes))


class StatisticsBuilder:
    """Sums ``SampleCounts`` to ``DatasetStatistics``, in the order of the manifest."""

    def __init__(self, num_classes: int) -> None:
        self._histogram: NDArray[np.int64] | None = None
        self._low = 0
        self._moments: list[Moments] = []
        self._class_pixels = np.zeros(num_classes, dtype=np.int64)
        self._present_pixels = np.zeros(num_classes, dtype=np.int64)
        self._images: dict[str, int] = {}
        self._pixels: dict[str, int] = {}

    def add(self, split: str, counts: SampleCounts) -> None:
        """Count one more sample of a split."""
        self._images[split] = self._images.get(split, 0) + 1
        self._pixels[split] = self._pixels.get(split, 0) + counts.values.pixels
        if split == "train":
            if isinstance(counts.values, Moments):
                self._moments.append(counts.values)
            else:
                self._add(counts.values)
            self._class_pixels += counts.classes
            self._present_pixels += np.where(counts.classes > 0, counts.classes.sum(), 0)

    def merge(self, counts: Mapping[str, Any]) -> None:
        """Count the samples of another builder, which follow in the manifest; ``counts`` is its ``to_dict``.

        The statistics are those of one builder that got all samples, to the last bit: histograms and pixels are whole
        numbers, and ``math.fsum`` rounds a sum of floats once.
        """
        if counts["histogram"] is not None:
            self._add(Histogram(int(counts["low"]), np.array(counts["histogram"], np.int64)))
        self._moments += [Moments.from_list(one) for one in counts["moments"]]
        self._class_pixels += np.array(counts["class_pixels"], np.int64)
        self._present_pixels += np.array(counts["present_pixels"], np.int64)
        for own, others in ((self._images, counts["images"]), (self._pixels, counts["pixels"])):
            for split, count in others.items():
                own[split] = own.get(split, 0) + int(count)

    def to_dict(self) -> dict[str, Any]:
        """All counts so far, for JSON; see ``merge``."""
        return {
            "low": self._low,
            "histogram": None if self._histogram is None else self._histogram.tolist(),
            "moments": [moments.to_list() for moments in self._moments],
            "class_pixels": self._class_pixels.tolist(),
            "present_pixels": self._present_pixels.tolist(),
            "images": dict(self._images),
            "pixels": dict(self._pixels),
        }

    def build(self) -> DatasetStatistics:
        """The statistics of all samples so far."""
        mean, std = self._mean_and_std()
        return DatasetStatistics(
            mean=mean,
            std=std,
            class_pixels=tuple(self._class_pixels.tolist()),
            present_pixels=tuple(self._present_pixels.tolist()),
            images=dict(self._images),
            pixels=dict(self._pixels),
        )

    def _add(self, values: Histogram) -> None:
        """Sum histograms over the range of all."""
        high = values.low + values.counts.shape[1]
        if self._histogram is None:
            self._low, self._histogram = values.low, np.zeros_like(values.counts)
        before, after = max(0, self._low - values.low), max(0, high - self._low - self._histogram.shape[1])
        if before or after:
            self._histogram, self._low = np.pad(self._histogram, ((0, 0), (before, after))), self._low - before
        self._histogram[:, values.low - self._low : high - self._low] += values.counts

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self._histogram is not None:
            values = np.arange(self._low, self._low + self._histogram.shape[1], dtype=np.float64)
            total = np.maximum(self._histogram.sum(axis=1), 1)
            mean = self._histogram @ values / total
            variance = (self._histogram * (values[None, :] - mean[:, None]) ** 2).sum(axis=1) / total
            return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
        pixels = sum(moments.pixels for moments in self._moments)
        means, stds = [], []
        for channel in range(len(self._moments[0].sums) if self._moments else 0):
            mean = math.fsum(moments.sums[channel] for moments in self._moments) / pixels
            within = math.fsum(moments.squares[channel] for moments in self._moments)
            between = math.fsum(m.pixels * (m.sums[channel] / m.pixels - mean) ** 2 for m in self._moments)
            means.append(mean)
            stds.append(math.sqrt((within + between) / pixels))
        return tuple(means), tuple(stds)


def _of_bytes(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 values occurs in each channel. OpenCV counts, in float32, faster than numpy."""
    if image[..., 0].size > EXACT_IN_FLOAT32 or not image.size:
        return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in _channels(image)])
    rows = image.reshape(len(image), -1, image.shape[-1])
    counts = [cv2.calcHist([rows], [channel], None, [256], [0, 256]).ravel() for channel in range(image.shape[-1])]
    return np.stack(counts).astype(np.int64)


def _channels(image: NDArray) -> list[NDArray]:
    return [image[..., channel] for channel in range(image.shape[-1])]

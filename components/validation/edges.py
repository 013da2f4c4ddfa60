"""Edge agreement: whether label borders follow the edges of their own images more than those of other images.

Masks that are shuffled against their images pass every check of single files. Their borders then cross edges only by
chance, so a shuffled copy of the pairs does as well as the pairs themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import resize_map

SIDE = 128
"""Height and width of the maps that are compared: of one size, so that any mask can lie over any image."""

FEWEST = 10
"""Pairs; among fewer, chance decides."""

SHUFFLES, CHANCE = 20, 95
"""Shuffled copies of the pairs, and the percentile of their agreement that the true pairs must exceed."""


class Agreement(NamedTuple):
    """Agreement of the pairs of a split.

    Attributes:
        each: of every pair, ``(N,)``.
        shuffled: ``CHANCE`` percentile of the mean over shuffled pairs.
    """

    each: NDArray[np.float64]
    shuffled: float

    @property
    def mean(self) -> float:
        return float(self.each.mean())

    def least(self, count: int) -> list[int]:
        """Numbers of the pairs that agree least."""
        return [int(pair) for pair in np.argsort(self.each, kind="stable")[:count]]


def label_borders(ids: NDArray) -> NDArray[np.bool_]:
    """Pixels of a map ``(H, W)`` with a neighbour above, below, left or right of another value."""
    borders = np.zeros(ids.shape, dtype=bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = ids[one] != ids[other]
        borders[one] |= differ
        borders[other] |= differ
    return borders


def edge_map(image: NDArray[np.uint8], classes: NDArray) -> bytes | None:
    """The inputs of the agreement: the image's gradient and the borders of its labels, both ``SIDE`` x ``SIDE``.

    Args:
        image: RGB ``(H, W, 3)``.
        classes: map ``(H, W)``, of any size.

    Returns:
        None where the map has no border.
    """
    borders = label_borders(resize_map(classes, (SIDE, SIDE)))
    if not borders.any():
        return None
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gradient = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)) / 8  # grey levels per pixel
    return gradient.round().clip(0, 255).astype(np.uint8).tobytes() + np.packbits(borders).tobytes()


def edge_agreement(maps: Sequence[bytes], seed: int = 0) -> Agreement | None:
    """Mean gradient on label borders over mean gradient elsewhere, of every pair and of shuffled pairs.

    One grey level is added to both means, so that an image without noise does not outweigh all others.

    Args:
        maps: of N pairs, as ``edge_map`` makes them.
        seed: of the shuffles; in each, every image gets the mask of another.

    Returns:
        None for fewer than ``FEWEST`` pairs.
    """
    if len(maps) < FEWEST:
        return None
    pixels = SIDE * SIDE
    parts = np.frombuffer(b"".join(maps), np.uint8).reshape(len(maps), -1)
    gradient = parts[:, :pixels].astype(np.float32)  # sums stay below 2**24: exact, in whatever order
    borders = np.unpackbits(parts[:, pixels:], axis=1).astype(np.float32)
    on, length = (gradient @ borders.T).astype(np.float64), borders.sum(axis=1).astype(np.float64)
    elsewhere = gradient.sum(axis=1, keepdims=True) - on
    ratio = (on / length + 1) / (elsewhere / np.maximum(pixels - length, 1) + 1)  # [image, mask]
    random, shuffled = np.random.default_rng(seed), []
    for _ in range(SHUFFLES):
        order = random.permutation(len(maps))
        shuffled.append(ratio[order, np.roll(order, 1)].mean())
    return Agreement(ratio.diagonal().copy(), float(np.percentile(shuffled, CHANCE)))

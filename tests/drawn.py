"""Numbers that two programs draw alike: of numpy, from a seed that a name gives."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def normal(name: str, *shape: int) -> NDArray[np.float32]:
    return generator(name).standard_normal(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A parameter or a statistic of a batch norm, of a size that keeps activations in range."""
    draws = generator(name)
    if name.endswith("running_var"):
        return draws.uniform(0.5, 1.0, shape).astype(np.float32)
    if len(shape) == 1 and name.endswith("weight"):
        return draws.uniform(0.2, 0.6, shape).astype(np.float32)
    if len(shape) == 1:
        return draws.normal(0, 0.1, shape).astype(np.float32)
    scale = np.sqrt((1.0 if "predictor" in name or "cls_logits" in name else 2.0) / np.prod(shape[1:]))
    return draws.normal(0, scale, shape).astype(np.float32)


def boxes(name: str, count: int, height: int, width: int) -> NDArray[np.float32]:
    """Left, top, right, bottom, ``(count, 4)``: of all sizes, some beyond the border, the last without width."""
    draws = generator(name)
    start = draws.uniform(-4, [width - 4, height - 4], (count, 2))
    size = draws.uniform(0.5, [width / 1.5, height / 1.5], (count, 2))
    found = np.concatenate([start, start + size], axis=1)
    found[-1, 2] = found[-1, 0]
    return found.astype(np.float32)


def scene(name: str, count: int, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes ``(count, 4)`` of whole pixels within an image, and an ellipse in each, ``(count, height, width)``."""
    draws = generator(name)
    start = draws.integers(0, [width - 24, height - 24], (count, 2))
    size = draws.integers(10, 24, (count, 2))
    found = np.concatenate([start, start + size], axis=1)
    y, x = np.mgrid[:height, :width] + 0.5
    masks = []
    for left, top, right, bottom in found:
        dx, dy = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
        masks.append(dx**2 + dy**2 <= 1)
    return found.astype(np.float32), np.array(masks).reshape(count, height, width)


DEFORMABLE: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], float, bool]] = {
    "plain": ((3, 3), (1, 1), (1, 1), (1, 1), 2.0, False),
    "modulated": ((3, 3), (2, 1), (3, 2), (3, 2), 4.0, True),
    "unmoved": ((3, 2), (1, 2), (1, 0), (1, 1), 0.0, True),
}
"""Deformable convolutions: kernel, stride, padding, dilation, how far the points move in pixels, and modulation."""


def deformable(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    far: float,
    modulated: bool,
) -> dict[str, NDArray[np.float32]]:
    """Inputs of a deformable convolution of two maps of 3 channels, 9 x 11, to 4 channels."""
    size = [
        (length + 2 * pad - gap * (points - 1) - 1) // step + 1
        for length, pad, gap, points, step in zip((9, 11), padding, dilation, kernel, stride, strict=True)
    ]
    points = kernel[0] * kernel[1]
    found = {
        "x": normal("maps", 2, 3, 9, 11),
        "offsets": far * normal("offsets", 2, 2 * points, *size),
        "weight": normal("kernel", 4, 3, *kernel) / 5,
    }
    return found | ({"modulation": normal("modulation", 2, points, *size)} if modulated else {})

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

"""The built-in dataset: real handwritten digits on cluttered scenes, in the layout ``folder``.

The handwriting is the UCI "Optical Recognition of Handwritten Digits" test set, 1,797 pictures of 8x8 pixels that come
with scikit-learn. Each scene holds digits of several sizes, turned, sheared, darker or lighter than what is behind
them, partly over one another, among shapes and strokes that are not digits. Classes: background and 0-9.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segmodels.checks import HIGHEST_SEED, check, whole_number
from segmodels.errors import InputError

CLASSES = {
    "background": (24, 24, 32),
    "0": (230, 25, 75),
    "1": (245, 130, 48),
    "2": (255, 225, 25),
    "3": (60, 180, 75),
    "4": (70, 240, 240),
    "5": (0, 130, 200),
    "6": (145, 70, 230),
    "7": (240, 50, 230),
    "8": (170, 110, 40),
    "9": (250, 190, 212),
}

Window = tuple[slice, slice]

MANY_PIXELS = 2_000_000
"""Pixels of all scenes from which drawing them takes longer than starting processes."""

_GLYPH = 64  # side of a digit's outline before it is placed, pixels
_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}  # of the source digits


@dataclass(frozen=True)
class DigitsSettings:
    """The built-in dataset: scenes of handwritten digits.

    Attributes:
        train: scenes to train on.
        val: scenes to choose the weights by.
        test: scenes to measure on. No source digit occurs in two splits.
        size: height and width of a scene, pixels.
        seed: the same seed gives the same files, byte for byte; every scene depends on seed, split and its number
            alone.
    """

    train: int = 3000
    val: int = 200
    test: int = 200
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        scenes = whole_number(1, 1_000_000)
        check(
            self,
            "digit scenes",
            train=scenes,
            val=scenes,
            test=scenes,
            size=whole_number(32, 4096),
            seed=whole_number(0, HIGHEST_SEED),
        )


def write_digits(root: str | Path, settings: DigitsSettings) -> None:
    """Write the dataset into ``root``: ``images/``, ``masks/``, ``objects/`` with ``train``, ``val``, ``test`` below,
    and ``classes.txt``. Digits are things, each an object; the background is stuff.

    Many scenes are drawn by a process per core: a script must guard its work by ``if __name__ == "__main__"``.
    """
    root = Path(root)
    scenes = {"train": settings.train, "val": settings.val, "test": settings.test}
    jobs = [(split, number) for split, count in scenes.items() for number in range(count)]
    for part in ("images", "masks", "objects"):
        for split in scenes:
            (root / part / split).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(
        "".join(f"{name}, {r}, {g}, {b}\n" for name, (r, g, b) in CLASSES.items()), encoding="utf-8"
    )
    write = partial(_write_scene, root, settings)
    if len(jobs) * settings.size**2 < MANY_PIXELS or multiprocessing.current_process().daemon:
        for job in jobs:
            write(job)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        for _ in pool.map(write, jobs, chunksize=32):
            pass


def _write_scene(root: Path, settings: DigitsSettings, job: tuple[str, int]) -> None:
    """Draw and write the scene of this number in a split."""
    split, number = job
    sources = split_sources(settings.seed)
    rng = np.random.default_rng((settings.seed, list(sources).index(split), number))
    drawn = draw_scene(rng, sources[split], settings.size)
    name = f"{split}/{number:05d}.png"
    _save(
        root / "images" / name, cv2.cvtColor(drawn.image, cv2.COLOR_RGB2BGR), compression=0
    )  # noise hardly gets smaller
    _save(root / "masks" / name, drawn.mask, compression=1)
    _save(root / "objects" / name, drawn.objects, compression=1)


@lru_cache(maxsize=1)
def split_sources(seed: int) -> dict[str, list[np.ndarray]]:
    """For each split and class 0-9, the numbers of its source digits; splits have none in common."""
    _, labels = _handwriting()
    rng = np.random.default_rng(seed)
    sources: dict[str, list[np.ndarray]] = {split: [] for split in _SHARES}
    for digit in range(10):
        numbers = rng.permutation(np.flatnonzero(labels == digit))
        ends = np.round(np.cumsum(list(_SHARES.values())) * len(numbers)).astype(int)
        for split, part in zip(_SHARES, np.split(numbers, ends[:-1]), strict=True):
            sources[split].append(part)
    return sources


def scene(rng: np.random.Generator, sources: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of ``draw_scene``."""
    return draw_scene(rng, sources, size)[:2]


class Scene(NamedTuple):
    """One picture of several digits."""

    image: np.ndarray  # RGB uint8 (size, size, 3)
    mask: np.ndarray  # uint8 (size, size): 0 background, 1 + digit elsewhere
    objects: np.ndarray  # uint8 (size, size): 0 background, else numbers from 1 in drawing order


def draw_scene(rng: np.random.Generator, sources: list[np.ndarray], size: int) -> Scene:
    """One scene, ``size`` pixels high and wide. A digit that is drawn later hides those below it."""
    canvas = _background(rng, size)
    _clutter(rng, canvas)
    mask, objects = np.zeros((2, size, size), np.uint8)
    for number in range(1, rng.integers(2, 6) + 1):
        digit = int(rng.integers(10))
        placed = _place(rng, _outline(int(rng.choice(sources[digit]))), mask)
        if placed:
            window, alpha = placed
            _paint(rng, canvas[window], alpha)
            inside = alpha > 0.5
            mask[window][inside] = digit + 1
            objects[window][inside] = number
    return Scene(_photograph(rng, canvas), mask, objects)


@lru_cache(maxsize=1)
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    """Pictures float32 ``(1797, 8, 8)`` in 0..1 and their digits, int64.

    Those of scikit-learn's ``load_digits``, read without importing it, which takes as long as drawing 500 scenes.
    """
    scikit_learn = find_spec("sklearn")
    if scikit_learn is None or not scikit_learn.submodule_search_locations:
        raise InputError(
            "scikit-learn, which brings the handwritten digits, is not installed: pip install scikit-learn"
        )
    rows = np.loadtxt(Path(scikit_learn.submodule_search_locations[0], "datasets/data/digits.csv.gz"), delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8).astype(np.float32) / 16, rows[:, -1].astype(int)


@lru_cache(maxsize=2048)
def _outline(number: int) -> np.ndarray:
    """A source digit as a smooth height field, float32 ``(64, 64)``, 0.5 at the edge of the stroke."""
    padded = np.pad(_handwriting()[0][number], 1)
    large = cv2.resize(padded, (_GLYPH, _GLYPH), interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(large, (0, 0), 1.8) + 0.02


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A surface of two related colours, float32 ``(size, size, 3)`` in 0..255: soft patches, often with a woven or
    striped pattern.
    """
    hue, value = rng.uniform(0, 360), rng.uniform(0.3, 0.85)
    first = _color(hue, rng.uniform(0.15, 0.7), value)
    second = _color(
        hue + rng.uniform(-70, 70), rng.uniform(0.15, 0.7), np.clip(value + rng.uniform(-0.45, 0.45), 0.12, 1)
    )
    mix = np.zeros((size, size), np.float32)
    for cells, weight in ((3, 1.0), (6, 0.6), (14, 0.3)):
        mix += weight * cv2.resize(
            rng.random((cells, cells), np.float32) - 0.5, (size, size), interpolation=cv2.INTER_CUBIC
        )
    if rng.random() < 0.6:
        mix += rng.uniform(0.1, 0.3) * _pattern(rng, size)
    return cv2.transform(np.clip(mix + 0.5, 0, 1), np.column_stack([second - first, first]))


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stripes, checks or weave in -1..1."""
    angle, period = rng.uniform(0, np.pi), size * rng.uniform(0.06, 0.2)
    x = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period)
    y, cos, sin = x[:, None], np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = cos * x + sin * y, cos * y - sin * x
    kind = rng.integers(3)
    if kind == 0:
        return np.sin(along)
    if kind == 1:
        return np.clip(4 * np.sin(along) * np.sin(across), -1, 1)
    return 0.5 * (np.sin(along) + np.sin(across))


def _clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Discs, boxes and strokes that are no digits, in any colour, some translucent."""
    size = len(canvas)
    for _ in range(rng.integers(2, 6)):
        layer = canvas.copy()
        color = _color(rng.uniform(0, 360), rng.uniform(0.1, 0.8), rng.uniform(0.1, 1)).tolist()
        center = rng.integers(0, size, 2).tolist()
        kind = rng.integers(4)
        thickness = int(max(1, size * rng.uniform(0.015, 0.06)))
        axes = (size * rng.uniform(0.05, 0.22, 2)).astype(int).tolist()
        angle = float(rng.uniform(0, 360))
        if kind == 0:
            cv2.ellipse(layer, center, axes, angle, 0, 360, color, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.fillPoly(layer, [cv2.boxPoints((center, axes, angle)).astype(np.int32)], color, cv2.LINE_AA)
        elif kind == 2:
            cv2.ellipse(layer, center, axes, angle, 0, float(rng.uniform(60, 200)), color, thickness, cv2.LINE_AA)
        else:
            cv2.line(layer, center, rng.integers(0, size, 2).tolist(), color, thickness, cv2.LINE_AA)
        opacity = rng.uniform(0.4, 1)
        cv2.addWeighted(layer, opacity, canvas, 1 - opacity, 0, dst=canvas)


def _place(rng: np.random.Generator, outline: np.ndarray, mask: np.ndarray) -> tuple[Window, np.ndarray] | None:
    """A window of the scene and the opacity 0..1 there of a digit, turned, sheared and put where it hides little of the
    others.

    None if no such place was found.
    """
    size = len(mask)
    for _ in range(6):
        height = size * rng.uniform(0.42, 0.64)
        scale, angle, shear = height / (0.8 * _GLYPH), np.deg2rad(rng.uniform(-8, 8)), rng.uniform(-0.08, 0.08)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[scale * rng.uniform(0.9, 1.1), shear * scale], [0, scale]])
        x, y = rng.uniform(0.36 * height, size - 0.36 * height, 2)
        left, top = max(int(x - 0.75 * height), 0), max(int(y - 0.75 * height), 0)
        window = slice(top, min(int(y + 0.75 * height), size)), slice(left, min(int(x + 0.75 * height), size))
        there = mask[window]
        move = np.empty((2, 3))
        move[:, :2], move[:, 2] = matrix, (x - left, y - top) - matrix @ (_GLYPH / 2, _GLYPH / 2)
        field = cv2.warpAffine(outline, move, there.shape[::-1])
        inside = field > 0.5
        if np.count_nonzero(inside & (there > 0)) <= 0.06 * np.count_nonzero(inside):
            return window, np.clip((field - 0.5) * (3.5 * scale) + 0.5, 0, 1)  # an edge about one pixel wide
    return None


def _paint(rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray) -> None:
    """Ink of a shaded colour, darker or lighter than what is behind, often with a soft shadow; changes ``canvas``."""
    behind = sum(cv2.mean(canvas, (alpha > 0.5).view(np.uint8))[:3]) / 3
    away = rng.uniform(60, 120) * rng.choice([-1, 1])
    if not 15 < behind + away < 245:
        away = -away
    ink = _color(rng.uniform(0, 360), rng.uniform(0.1, 0.75), 0.7)
    ink = np.clip(ink - ink.mean() + behind + away, 0, 255)
    if rng.random() < 0.5:
        soft = len(alpha) / 40
        shadow = cv2.warpAffine(alpha, np.array([[1, 0, soft], [0, 1, soft]], np.float32), alpha.shape[::-1])
        canvas *= cv2.merge([1 - 0.4 * cv2.GaussianBlur(shadow, (0, 0), soft)] * 3)
    ramp = _ramp(len(alpha)) * np.float32(rng.uniform(-20, 20))
    canvas += (ink + ramp[:, None, None] - canvas) * cv2.merge([alpha] * 3)


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Light from one side, a little blur, sensor noise; uint8."""
    size = len(canvas)
    ramp = _ramp(size)
    slope = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    canvas = canvas * cv2.merge([1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]] * 3)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.7))
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 7))
    return cv2.add(canvas, noise, dtype=cv2.CV_8U)  # rounds and saturates


@lru_cache(maxsize=256)
def _ramp(length: int) -> np.ndarray:
    """From -1 to 1, float32."""
    return np.linspace(-1, 1, length, dtype=np.float32)


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB float32 in 0..255; hue in degrees, any turn."""
    sector = (np.float32(hue) / 60 + np.array([5, 3, 1], np.float32)) % 6
    return np.float32(255 * value) * (
        1 - np.float32(saturation) * np.clip(np.minimum(sector, 4 - sector), 0, 1)
    ).astype(np.float32)


def _save(path: Path, pixels: np.ndarray, compression: int) -> None:
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    if not done:
        raise RuntimeError(f"OpenCV could not encode {path}")
    path.write_bytes(data.tobytes())

"""A small dataset on disk in the layout ``folder``, for tests: distinct textured images, masks of two classes."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_small_dataset(
    root: Path, splits: dict[str, int] | None = None, size: tuple[int, int] = (32, 24), seed: int = 0
) -> Path:
    """Images of ``size`` (width, height): by split in folders, or 12 without splits."""
    random = np.random.default_rng(seed)
    names = (
        [f"{split}/{number:03d}" for split, count in splits.items() for number in range(count)]
        if splits
        else [f"{number:03d}" for number in range(12)]
    )
    for name in names:
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        mask = np.zeros((size[1], size[0]), np.uint8)
        left, top = random.integers(0, size[0] // 2), random.integers(0, size[1] // 2)
        mask[top : top + size[1] // 2, left : left + size[0] // 2] = 1
        write(root / "images" / f"{name}.png", Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        write(root / "masks" / f"{name}.png", Image.fromarray(mask))
    (root / "classes.txt").write_text("background\nobject\n")
    return root


def write(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)

"""A small dataset in the layout ``folder``, to be changed by tests of layouts: three images of one content."""

from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.annotations import Annotation
from segmodels.data.layouts import Layout, check_sizes

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
MASK = RNG.integers(0, 3, (12, 17), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def read_both(layout: Layout) -> tuple[np.ndarray, Annotation]:
    """Image and annotation of the first sample, of one size."""
    sample = next(iter(layout.samples()))
    image, annotation = layout.read_image(sample), layout.annotation(sample)
    assert annotation is not None
    check_sizes(sample, image, annotation)
    return image, annotation


def folder(root: Path, names=("a", "b", "c"), classes: str = "ground\nroad\ncar\n") -> Path:
    for name in names:
        save(root / "images" / f"{name}.png", IMAGE)
        save(root / "masks" / f"{name}.png", MASK)
    (root / "classes.txt").write_text(classes)
    return root

"""What the small trees of datasets are made of, and how tests open them."""

import base64
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segmodels.annotations import Annotation
from segmodels.data.classes_file import distinct_colors
from segmodels.data.layouts import Layout, Sample, open_layout

RNG = np.random.default_rng(5)
SIZE = (24, 32)
TREES: dict[str, Callable[[Path], Path]] = {}
"""Layout -> the function that writes a tree of it."""

VOC_PALETTE = np.array(distinct_colors(256))


def tree(name: str) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def add(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
        TREES[name] = write
        return write

    return add


def save(path: Path, pixels: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        cv2.imwrite(str(path), pixels[:, :, ::-1])
        return
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    save(path, RNG.integers(0, 256, (*size, 3), dtype=np.uint8))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def halves(left: int, right: int, dtype: type = np.uint8) -> np.ndarray:
    """A map of two values; the right one covers the last 8 of 32 columns."""
    mask = np.full(SIZE, left, dtype)
    mask[:, 24:] = right
    return mask


def opened(name: str, root: Path) -> tuple[Layout, list[Sample], Annotation]:
    """The layout, its samples, and the annotation of the first."""
    layout = open_layout(name, root)
    samples = list(layout.samples())
    annotation = layout.annotation(samples[0])
    assert annotation is not None
    return layout, samples, annotation


def histogram(layout: Layout, annotation: Annotation) -> dict[str, int]:
    """Pixels of each class by name, and of void."""
    counts = Counter(annotation.classes.ravel().tolist())
    return {
        "void" if train == layout.labels.ignore_index else layout.labels.classes[train]: n
        for train, n in counts.items()
    }


def objects(layout: Layout, annotation: Annotation) -> list[tuple[str, int, bool]]:
    """Class, pixels and crowd flag of each object."""
    masks = annotation.masks()
    return [
        (layout.labels.classes[segment.label], int(mask.sum()), segment.crowd)
        for segment, mask in zip(annotation.segments, masks, strict=True)
    ]


def png_in_base64(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def save_nifti(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (0.8, 0.9, 2.0)) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)


def pairs(root: Path, image: str, mask: str, names: tuple[str, ...] = ("a", "b", "c")) -> None:
    """Images and masks of 0 and 255; ``image`` and ``mask`` have a place for each name."""
    for name in names:
        photo(root / image.format(name))
        save(root / mask.format(name), halves(0, 255))

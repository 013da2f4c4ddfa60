"""Classes of a dataset folder without a classes file, read from its masks where they leave no doubt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.data.classes_file import VOID, Classes
from segmodels.data.decoding import JPEG_MASK, Color, read_pixels
from segmodels.data.label_files import read_mask
from segmodels.errors import InputError
from segmodels.labels import LabelMap

LOOKED_AT = 200
"""Masks that are opened, evenly spaced; validate finds values that only others have."""

MOST_COLORS = 64
"""Distinct colours of colour-coded masks; more are no classes but noise, as of JPEG."""

BINARY = ("background", "foreground")
HIGHEST = (1, 255, 65535)
"""The foreground of binary masks: as a number, and white in 8 and 16 bits."""

FORM = "write classes.txt with a name and, unless they count from 0, a label id or colour for each class"


def inferred_classes(root: Path, masks: Sequence[str]) -> Classes:
    """Classes of masks that hold only 0 and 255, 65535 or 1 (background and foreground), palette indices (``class 0``,
    ``class 1``, ... in the palette's colours; 255 is void) or colours (``#804080``; black is the first class).

    Args:
        root: folder of the dataset.
        masks: paths relative to it.

    Raises:
        InputError: other values, such as grey ones above 1, whose number of classes and void are not known.
    """
    chosen = [masks[place] for place in np.unique(np.linspace(0, len(masks) - 1, LOOKED_AT).astype(int))]
    ids: set[int] = set()
    colors: set[Color] = set()
    palettes: set[tuple[int, ...] | None] = set()
    for name in chosen:
        mode, palette = _form(root / name)
        if mode in ("RGB", "RGBA"):
            colors |= _colors(root, name)
        else:
            found = np.unique(read_mask(root / name)).tolist()
            _check_lossless(root, name, len(found))
            ids.update(found)
            palettes.add(palette)
    if all(red == green == blue for red, green, blue in colors):
        ids, colors = ids | {red for red, _, _ in colors}, set()
    if colors and not ids:
        return _by_color(root, colors)
    if not colors and any(ids == {0, highest} for highest in HIGHEST):
        labels = LabelMap(BINARY, ((0, 0, 0), (255, 255, 255)), {0: 0, max(ids): 1})
        return Classes(labels, {}, None, None)
    if not colors and len(palettes) == 1 and (palette := palettes.pop()) is not None:
        return _by_palette(root, ids, palette)
    values = f"{len(colors)} colours and grey values" if colors else f"the grey values {sorted(ids)[:10]}"
    raise _doubt(root, f"they hold {values}")


def _form(path: Path) -> tuple[str, tuple[int, ...] | None]:
    """Pillow's name of the file's kind of pixels, and its palette where they are indices."""
    try:
        with Image.open(path) as picture:
            return picture.mode, tuple(picture.getpalette() or ()) if picture.mode == "P" else None
    except Exception:
        read_mask(path)  # says what is wrong
        raise


def _colors(root: Path, name: str) -> set[Color]:
    pixels = read_pixels(root / name).reshape(-1, 3)
    pixels = pixels >> 8 if pixels.dtype == np.uint16 else pixels  # as read_mask
    found = np.unique(pixels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32))
    if len(found) > MOST_COLORS:
        raise _doubt(root, f"{name} holds {len(found)} colours, expected at most {MOST_COLORS}")
    _check_lossless(root, name, len(found))
    return {(value >> 16, value >> 8 & 255, value & 255) for value in found.tolist()}


def _check_lossless(root: Path, name: str, values: int) -> None:
    if Path(name).suffix.lower() in (".jpg", ".jpeg") and values > len(BINARY):
        raise _doubt(root, f"{name} holds {values} values, and {JPEG_MASK}")


def _doubt(root: Path, problem: str) -> InputError:
    return InputError(
        f"dataset folder {root} has neither classes.txt nor classes.json, and its masks leave doubts: {problem};"
        f" correct the masks, or {FORM}"
    )


def _by_color(root: Path, colors: set[Color]) -> Classes:
    ordered = sorted(colors)
    if len(ordered) > MOST_COLORS:
        raise _doubt(root, f"they hold {len(ordered)} colours, expected at most {MOST_COLORS}")
    names = tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in ordered)
    labels = LabelMap(names, tuple(ordered), {train: train for train in range(len(ordered))})
    return Classes(labels, {color: train for train, color in enumerate(ordered)}, None, None)


def _by_palette(root: Path, ids: set[int], palette: Sequence[int]) -> Classes:
    count = max(ids - {VOID}, default=0) + 1
    if len(palette) < 3 * count:
        raise _doubt(root, f"they hold the index {count - 1}, but palettes of {len(palette) // 3} colours")
    colors = tuple((palette[3 * id], palette[3 * id + 1], palette[3 * id + 2]) for id in range(count))
    labels = LabelMap(
        tuple(f"class {id}" for id in range(count)), colors, {id: id for id in range(count)} | {VOID: 255}
    )
    return Classes(labels, {}, None, VOID)

"""Classes of a dataset folder without a classes file, read from its masks where they leave no doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.data.classes_file import VOID, Classes
from segmodels.data.decoding import LOSSY, LOSSY_MASK, Color, lossy_format, read_bytes, read_pixels
from segmodels.data.label_files import palette_colors, read_mask, tells_apart
from segmodels.errors import InputError
from segmodels.labels import LabelMap

LOOKED_AT = 200
"""Masks that are opened, evenly spaced; validate finds values that only others have."""

MOST_COLORS = 64
"""Distinct colours of colour-coded masks; more are no classes but noise, as of JPEG."""

BINARY = ("background", "foreground")
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
HIGHEST = (1, 255, 65535)
"""The foreground of binary masks: as a number, and white in 8 and 16 bits."""

FORM = "write classes.txt with a name and, unless they count from 0, a label id or colour for each class"


def inferred_classes(root: Path, masks: Sequence[str]) -> Classes:
    """Classes of masks that hold only 0 and 255, 65535 or 1, or black and white (background and foreground), palette
    indices (``class 0``, ``class 1``, ... in the palette's colours; 255 is void) or colours (``#804080``; black is the
    first class).

    Args:
        root: folder of the dataset.
        masks: paths relative to it.

    Raises:
        InputError: other values, such as grey ones above 1, whose number of classes and void are not known; or two
            palettes disagree.
    """
    chosen = [masks[place] for place in np.unique(np.linspace(0, len(masks) - 1, LOOKED_AT).astype(int))]
    ids: set[int] = set()
    colors: set[Color] = set()
    palettes: dict[str, tuple[list[Color], list[int]]] = {}
    grey = alpha = False
    for name in chosen:
        mode, palette = _form(root / name)
        alpha |= mode in ("RGBA", "LA", "PA")
        if mode in ("RGB", "RGBA"):
            colors |= _colors(root, name)
        else:
            found = np.unique(read_mask(root / name)).tolist()
            _check_lossless(root, name, len(found))
            if palette is not None:
                palettes[name] = palette, found
            else:
                ids.update(found)
                grey = True
    if all(_black_and_white(*palette) for palette in palettes.values()):
        colors |= {palette[index] for palette, used in palettes.values() for index in used}
        palettes = {}
    if colors <= {BLACK, WHITE}:
        white = max(ids, default=0) or VOID
        ids, colors = ids | {white if color == WHITE else 0 for color in colors}, set()
    elif all(red == green == blue for red, green, blue in colors):
        ids, colors = ids | {red for red, _, _ in colors}, set()
    if colors and not ids and not palettes:
        return _by_color(root, colors)
    shown = _agreed(root, palettes)
    ids = ids.union(*(used for _, used in palettes.values()))
    if not colors and any(ids == {0, highest} for highest in HIGHEST):
        labels = LabelMap(BINARY, (BLACK, WHITE), {0: 0, max(ids): 1})
        return Classes(labels, {} if palettes else {BLACK: 0, WHITE: max(ids)}, None, None)
    if not colors and palettes and not grey:
        return _by_palette(root, ids, max((palette for palette, _ in palettes.values()), key=len), shown)
    values = f"{len(colors)} colours and grey values" if colors else f"the grey values {sorted(ids)[:10]}"
    raise _doubt(root, f"they hold {values}{', and alpha, which is not read' * alpha}")


def _form(path: Path) -> tuple[str, list[Color] | None]:
    """Pillow's name of the file's kind of pixels, and its palette where they are indices."""
    try:
        with Image.open(path) as picture:
            return picture.mode, palette_colors(picture)
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


def _black_and_white(palette: Sequence[Color], used: Sequence[int]) -> bool:
    return tells_apart(palette, used) and {palette[index] for index in used} <= {BLACK, WHITE}


def _agreed(root: Path, palettes: Mapping[str, tuple[list[Color], list[int]]]) -> dict[int, Color]:
    """Colours of the indices in use, without void. Raises InputError: one file shows an index or a colour as another
    than some file before it.
    """
    seen: dict[int, tuple[Color, str]] = {}
    for name, (palette, used) in palettes.items():
        here = {index: palette[index] for index in used if index < len(palette) and index != VOID}
        for index, (color, other) in seen.items():
            if here.get(index, color) != color or (color in here.values() and palette[index : index + 1] != [color]):
                theirs = {index: color for index, (color, file) in seen.items() if file == other}
                raise _doubt(root, f"the palettes of {other} and {name} disagree, {_few(theirs)} and {_few(here)}")
        seen = {index: (color, name) for index, color in here.items()} | seen
    return {index: seen[index][0] for index in sorted(seen)}


def _few(colors: Mapping[int, Color]) -> str:
    listed = ", ".join(f"{index}: {color}" for index, color in list(colors.items())[:6])
    return f"{{{listed}{', ...' * (len(colors) > 6)}}}"


def _check_lossless(root: Path, name: str, values: int) -> None:
    if values > len(BINARY) and (form := lossy_format(read_bytes(root / name))):
        binary = ", or, if they are black and white, write 'background, 0' and 'foreground, 255' into classes.txt"
        advice = f"{LOSSY_MASK.format(form)}{binary * (form == LOSSY[0])}"
        raise _doubt(root, f"{name} holds {values} values, and {advice}")


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


def _by_palette(root: Path, ids: set[int], palette: Sequence[Color], shown: dict[int, Color]) -> Classes:
    """Classes of the longest palette; masks that were not looked at are read by ``shown``, the colours in use."""
    count = max(ids - {VOID}, default=0) + 1
    if len(palette) < count:
        raise _doubt(root, f"they hold the index {count - 1}, but palettes of {len(palette)} colours")
    colors = tuple(shown.get(id, palette[id]) for id in range(count))
    labels = LabelMap(
        tuple(f"class {id}" for id in range(count)), colors, {id: id for id in range(count)} | {VOID: 255}
    )
    return Classes(labels, {shown[id]: id for id in reversed(shown)}, None, VOID)

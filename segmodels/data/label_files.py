"""Reading masks and maps of objects: label ids as grey values, palette indices or colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.data import deep_images, geometry
from segmodels.data.damage import decoding
from segmodels.data.decoding import LOSSY, LOSSY_MASK, Color, is_deep_png, open_picture, orientation, read_bytes
from segmodels.data.limits import require_size
from segmodels.errors import InputError

PHOTOMETRIC, SOFTWARE = 262, 305
"""TIFF tags."""


def read_mask(path: str | Path, palette: Mapping[Color, int] | None = None) -> np.ndarray:
    """Decode a mask to the label ids in the file, ``(H, W)`` whole numbers.

    A grey value (1 to 16 bits, in TIFF files up to 64) or an index of the file's own palette is the label id. RGB and
    RGBA masks are accepted when all colour channels are equal, or when ``palette`` (RGB colour -> label id), which
    takes precedence, knows every colour; of 16 bits per channel the high bytes are the colour. Indices, too, are read
    by their colours where ``palette`` knows all that the mask uses: programs that make files smaller number colours
    as they like. Alpha is ignored.

    Raises:
        InputError: missing, truncated, broken, several pages, colours that mean nothing, or a palette of which some
            colours contradict the indices and others mean nothing; names the file.
    """
    data = read_bytes(path)
    if data[:4] in deep_images.TIFF_MAGIC and (deep := deep_images.tiff_labels(data, path)) is not None:
        pixels, tag = deep
        return geometry.upright(_of_channels(pixels, path, palette or {}), tag)
    picture = open_picture(data, path)
    pages = _count(picture, path)
    if pages > 1 and picture.format != "TIFF":
        raise InputError(f"mask {path} is an animation of {pages} pictures, expected one: save each as PNG")
    with decoding(path, size=len(data)):
        return geometry.upright(_label_ids(picture, data, path, palette or {}), orientation(picture))


def read_pages(path: str | Path) -> np.ndarray:
    """Grey maps of all pages of a file, integer ``(P, H, W)``: one page in PNG, any number in TIFF.

    Raises:
        InputError: missing, truncated, broken, colours, or pages of several sizes; names the file.
    """
    picture = open_picture(read_bytes(path), path)
    if (count := _count(picture, path)) > 1:
        require_size((count, picture.height, picture.width), path)
    pages = []
    for number in range(count):
        with decoding(path, f"in page {number + 1}"):
            picture.seek(number)
            pages.append(np.array(picture))
    if any(page.ndim != 2 or page.shape != pages[0].shape for page in pages):
        shapes = sorted({page.shape for page in pages})
        raise InputError(f"file {path} has pages of the shapes {shapes}, expected grey ones of one size: convert it")
    values = _unspread(np.stack(pages).astype(np.int64), picture)
    return np.moveaxis(geometry.upright(np.moveaxis(values, 0, -1), orientation(picture)), -1, 0)


def page_count(path: str | Path) -> int:
    """Number of pages of a TIFF file, 1 of others; errors as ``read_pages``."""
    return _count(open_picture(read_bytes(path), path), path)


def read_page(path: str | Path, number: int) -> np.ndarray:
    """One grey page ``(H, W)`` of a TIFF file, of its own type; ``number`` counts from 0.

    Raises:
        InputError: as ``read_pages``, or the file has fewer pages.
    """
    picture = open_picture(read_bytes(path), path)
    with decoding(path, f"in page {number + 1}"):
        picture.seek(number)
        page = np.array(picture)
    if page.ndim != 2:
        raise InputError(f"file {path} has a page of the shape {page.shape}, expected grey pages: convert it")
    return page


def palette_colors(picture: Image.Image) -> list[Color] | None:
    """The colours of a picture's palette, by index; None of other pictures."""
    values = picture.getpalette() if picture.mode in ("P", "PA") else None
    return None if values is None else list(zip(values[::3], values[1::3], values[2::3], strict=True))


def tells_apart(colors: Sequence[Color], used: Sequence[int]) -> bool:
    """Whether each used index of a palette is the first of its colour; palettes are filled up with black."""
    return max(used) < len(colors) and all(colors.index(colors[index]) == index for index in used)


def _count(picture: Image.Image, path: str | Path) -> int:
    """Pages, or pictures of an animation."""
    with decoding(path):
        return int(getattr(picture, "n_frames", 1))


def _label_ids(picture: Image.Image, data: bytes, path: str | Path, palette: Mapping[Color, int]) -> np.ndarray:
    """``(H, W)`` in the order of the file."""
    if picture.mode == "1":
        return (np.asarray(picture) ^ _is_of_tifffile(picture)).astype(np.uint8)
    if is_deep_png(picture, data):
        return _of_channels(deep_images.deep_png(data), path, palette)
    if picture.mode in ("P", "PA"):
        indices = np.array(picture) if picture.mode == "P" else np.array(picture)[:, :, 0]
        return _of_indices(indices, palette_colors(picture) or [], path, palette)
    if picture.mode in ("L", "I") or picture.mode.startswith("I;16"):
        return _unspread(np.array(picture), picture)
    if picture.mode == "LA":
        return np.array(picture)[:, :, 0]
    if picture.mode not in ("RGB", "RGBA"):
        raise InputError(
            f"mask {path} has mode {picture.mode}, expected grey, palette or RGB: convert it to 8-bit grey label ids"
        )
    return _of_channels(np.asarray(picture)[:, :, :3], path, palette, picture)


def _is_of_tifffile(picture: Image.Image) -> bool:
    """Whether a file of bits was written by tifffile, also for scikit-image: it declares True, 1, to be black."""
    tags = getattr(picture, "tag_v2", {})
    return tags.get(PHOTOMETRIC) == deep_images.WHITE_IS_ZERO and str(tags.get(SOFTWARE)).startswith("tifffile")


def _of_indices(
    indices: np.ndarray, colors: Sequence[Color], path: str | Path, palette: Mapping[Color, int]
) -> np.ndarray:
    """Label ids of indices ``(H, W)`` into ``colors``: those of the colours where ``palette`` knows all in use."""
    used = np.unique(indices).tolist()
    if not palette or not tells_apart(colors, used):
        return indices
    ids = {index: palette[colors[index]] for index in used if colors[index] in palette}
    if unknown := [index for index in used if index not in ids]:
        for index, id in ids.items():
            if id != index and colors[index] != (index,) * 3:
                raise InputError(
                    f"mask {path} has a palette that shows the index {index} in {colors[index]}, the colour of the"
                    f" class with the label id {id}, and the index {unknown[0]} in {colors[unknown[0]]}, which"
                    " no class has: give the classes the colours of the masks, or store label ids in grey"
                )
        return indices
    table = np.zeros(256, dtype=np.int32)
    table[used] = list(ids.values())
    return table[indices]


def _of_channels(
    pixels: np.ndarray, path: str | Path, palette: Mapping[Color, int], picture: Image.Image | None = None
) -> np.ndarray:
    """Label ids of whole numbers ``(H, W, C)``; ``picture`` is what Pillow decoded, None where others decoded."""
    colors = (pixels >> 8 if pixels.dtype == np.uint16 else pixels)[..., :3]
    ids, unknown = _ids_of_colors(colors, palette) if colors.shape[-1] == 3 else (pixels[..., 0], np.zeros(0, bool))
    if not unknown.any():
        return ids
    if (pixels[..., :3] == pixels[..., :1]).all():
        return pixels[..., 0].copy() if picture is None else _unspread(pixels[..., 0].copy(), picture)
    example = tuple(int(value) for value in colors[unknown][0])
    lossy = picture.format if picture is not None and picture.format in LOSSY else ""
    raise InputError(
        f"mask {path} holds the colour {example}, which no class has: correct the mask, give the classes their colours,"
        f" or store label ids in grey{f'; {LOSSY_MASK.format(lossy)}' if lossy else ''}"
    )


def _unspread(values: np.ndarray, picture: Image.Image) -> np.ndarray:
    """Grey values as the file holds them, where Pillow spread them over the whole range."""
    most = picture.info.get("most")
    if most is None:
        return values
    whole = 65535 if picture.mode == "I" else 255
    return np.rint(values * (most / whole)).astype(values.dtype)


def _ids_of_colors(colors: np.ndarray, palette: Mapping[Color, int]) -> tuple[np.ndarray, np.ndarray]:
    """Label ids ``(H, W)`` of the colours ``(H, W, 3)``, and where the palette does not know the colour."""
    packed = colors.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
    ids = np.full(packed.shape, -1, dtype=np.int32)
    for value in np.unique(packed):
        color = (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255)
        if color in palette:
            ids[packed == value] = palette[color]
    return ids, ids < 0

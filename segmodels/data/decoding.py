"""Reading image and mask files: one strict decoder for all formats.

Pillow decodes, not OpenCV: it gives the palette index where OpenCV expands palettes to colours, refuses truncated
    files,
and keeps libpng's messages off stderr. EXIF orientation is ignored for images and masks alike, as annotation tools
draw masks over the stored pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segmodels.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm")
"""File name endings, lower case, of the formats that are looked for in dataset folders."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM")
"""Pillow's names of the formats that are decoded, whatever a file is called; Pillow would hand others to programs such
as Ghostscript.
"""

Color = tuple[int, int, int]

_PNG_END = b"IEND\xaeB`\x82"


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image to RGB uint8 ``(H, W, 3)``.

    Grey and palette images are expanded, alpha is dropped, CMYK is converted, of 16 bits per channel the high byte is
    kept.

    Raises:
        InputError: missing, truncated, broken, or floating-point pixels; names the file.
    """
    return decode_image(_read(path), path)


def decode_image(data: bytes, name: str | Path) -> np.ndarray:
    """``read_image`` of a file's contents; ``name`` is what errors call it."""
    picture = _decode(data, name)
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise InputError(
            f"image {name} has 32-bit pixels (mode {picture.mode}), expected 8 or 16 bits per channel: convert it"
        )
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # by way of RGBA, as palettes may hold transparency
    return np.array(picture.convert("RGB"))


def read_mask(path: str | Path, palette: Mapping[Color, int] | None = None) -> np.ndarray:
    """Decode a mask to the label ids in the file, ``(H, W)`` uint8, uint16 or int32.

    A grey value (1 to 16 bits) or a palette's index is the label id. RGB and RGBA masks are accepted when all colour
    channels are equal, or when ``palette`` (RGB colour -> label id) knows every colour, which goes first; alpha is
    ignored.

    Raises:
        InputError: missing, truncated, broken, or colours that mean nothing; names the file.
    """
    picture = _decode(_read(path), path)
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if picture.mode == "L":
        return np.array(picture) // picture.info.get("grey step", 1)
    if picture.mode in ("P", "I") or picture.mode.startswith("I;16"):
        return np.array(picture)
    if picture.mode in ("LA", "PA"):
        return np.array(picture)[:, :, 0]
    if picture.mode not in ("RGB", "RGBA"):
        raise InputError(
            f"mask {path} has mode {picture.mode}, expected grey, palette or RGB: convert it to 8-bit grey label ids"
        )
    colors = np.asarray(picture)[:, :, :3]
    ids, unknown = _ids_of_colors(colors, palette or {})
    if not unknown.any():
        return ids
    if (colors == colors[:, :, :1]).all():
        return colors[:, :, 0].copy()
    example = tuple(int(value) for value in colors[unknown][0])
    raise InputError(
        f"mask {path} holds the colour {example}, which no class has: correct the mask, give the classes their colours,"
        " or store label ids in grey"
    )


def scaled_size(size: tuple[int, int], longer_side: int | None) -> tuple[int, int]:
    """(height, width) with the longer side at ``longer_side`` pixels and the same proportions; None keeps the size."""
    longest = max(size)
    if longer_side in (None, longest):
        return size
    factor = longer_side / longest
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_image(image: np.ndarray, longer_side: int | None) -> np.ndarray:
    """The image ``(H, W, C)`` at ``scaled_size``, by area averaging to shrink and bilinearly to grow: how images of
    training and of prediction come to one size.
    """
    height, width = scaled_size((image.shape[0], image.shape[1]), longer_side) if longer_side else image.shape[:2]
    if (height, width) == image.shape[:2]:
        return image
    shrinks = max(height, width) < max(image.shape[:2])
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops an axis of one channel


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"file {path} is not there: restore it or remove its sample from the dataset") from None
    except OSError as error:
        raise InputError(f"file {path} cannot be read ({error.strerror}): check the path and its permissions") from None


def _decode(data: bytes, name: str | Path) -> Image.Image:
    """The picture with its pixels loaded."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        picture.load()
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"file {name} has more than {limit / 1e6:.0f} million pixels, the most that is read whole: cut it into"
            " parts"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = "no known image format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise InputError(f"file {name} is truncated or broken ({reason}, {len(data)} bytes): replace it") from None
    if picture.format == "PNG":
        if _PNG_END not in data:
            raise InputError(f"file {name} is truncated (its PNG end mark is missing, {len(data)} bytes): replace it")
        bits, color_type = data[24], data[25]  # of the header chunk, which is always first
        if color_type == 0 and bits in (2, 4):
            picture.info["grey step"] = 255 // (2**bits - 1)  # Pillow spreads 2 and 4-bit greys over 0..255
    return picture


def _ids_of_colors(colors: np.ndarray, palette: Mapping[Color, int]) -> tuple[np.ndarray, np.ndarray]:
    """Label ids ``(H, W)`` of the colours ``(H, W, 3)``, and where the palette does not know the colour."""
    packed = colors.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
    ids = np.full(packed.shape, -1, dtype=np.int32)
    for value in np.unique(packed):
        color = (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255)
        if color in palette:
            ids[packed == value] = palette[color]
    return ids, ids < 0

"""Reading image files: one strict decoder for all formats. ``label_files.py`` reads masks.

Pillow decodes, not OpenCV: it gives the palette index where OpenCV expands palettes to colours, refuses truncated
files, and keeps libpng's messages off stderr. ``deep_images.py`` reads what Pillow cannot hold: more than three
channels, or 16 bits in several of them. Images and masks alike are turned as their EXIF or TIFF orientation asks, as
viewers, browsers and the annotation tools in them show them; a caller of ``read_pixels`` may decide otherwise.
"""

from __future__ import annotations

import io
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile

from segmodels.data import deep_images, geometry
from segmodels.data.damage import decoding
from segmodels.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm")
"""File name endings, lower case, of the formats that are looked for in dataset folders."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM")
"""Pillow's names of the formats that are decoded, whatever a file is called; Pillow would hand others to programs such
as Ghostscript.
"""

Color = tuple[int, int, int]

ORIENTATION = 0x0112
"""EXIF and TIFF tag."""

TURNED = range(2, 9)
"""Orientations other than upright."""

SIDEWAYS = range(5, 9)
"""Orientations that exchange width and height."""

Turns = Callable[[tuple[int, int], tuple[int, int]], bool]
"""Whether a picture with an orientation is turned, by its height and width as stored and as turned."""

JPEG = (".jpg", ".jpeg", ".jfif")
LOSSY = ("JPEG", "lossy WebP")
LOSSY_MASK = "{} changes label values when it compresses: export masks as PNG"
"""With one of ``LOSSY``."""

_JPEG_START = b"\xff\xd8"

_PNG_START = b"\x89PNG\r\n\x1a\n"

_PNG_END = b"IEND\xaeB`\x82"

_LFS = b"version https://git-lfs"
"""Begin of the small files that stand for large ones until Git LFS has fetched these."""


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image to RGB uint8 ``(H, W, 3)``.

    As ``read_pixels``; then grey is repeated, and of 16 bits per channel the high byte is kept.

    Raises:
        InputError: missing, truncated, broken, floating-point pixels, or other channels; names the file.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, name: str | Path) -> np.ndarray:
    """``read_image`` of a file's contents; ``name`` is what errors call it."""
    return converted(decode_pixels(data, name), 3, np.dtype(np.uint8), name)


def read_pixels(path: str | Path, turns: Turns | None = None) -> np.ndarray:
    """Decode an image with its own channels and type: ``(H, W, C)`` uint8, uint16, int16 or float32.

    Palettes are expanded to RGB, CMYK is converted, 1-bit pixels become 0 and 255, the alpha of pictures is dropped.
    TIFF files have any number of channels; those above 8 bits keep all of them, since a fourth one is most often near
    infrared, whatever the file declares it to be. Of an animation the first picture is read, of a TIFF file the first
    page, if the others are only smaller copies.

    Args:
        turns: whether the picture is turned as its EXIF or TIFF orientation asks; asked only where it has one. None:
            it is, as viewers show it.

    Raises:
        InputError: missing, truncated, broken, 32-bit integers, or a compression that is not known; names the file.
    """
    return decode_pixels(read_bytes(path), path, turns)


def decode_pixels(data: bytes, name: str | Path, turns: Turns | None = None) -> np.ndarray:
    """``read_pixels`` of a file's contents; ``name`` is what errors call it."""
    if data[:4] in deep_images.TIFF_MAGIC and (bands := deep_images.tiff_bands(data, name)) is not None:
        pixels, tag = bands
    else:
        picture = open_picture(data, name)
        with decoding(name, size=len(data)):
            pixels, tag = _pixels(picture, data, name), orientation(picture)
    stored = pixels.shape[0], pixels.shape[1]
    if tag not in TURNED or (turns is not None and not turns(stored, stored[::-1] if tag in SIDEWAYS else stored)):
        return pixels
    return geometry.upright(pixels, tag)


def picture_orientation(path: Path) -> int | None:
    """2..8, as EXIF counts them; None for upright pictures, and for files that are none."""
    with suppress(Exception), Image.open(path) as picture:
        tag = orientation(picture)
        return tag if tag in TURNED else None
    return None


def picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a picture as viewers show it, from its header; None for files that are none."""
    with suppress(Exception), Image.open(path) as picture:
        width, height = picture.size
        return (width, height) if orientation(picture) in SIDEWAYS else (height, width)
    return None


def picture_mode(path: Path) -> str | None:
    """Pillow's name of a picture's kind of pixels, from its header; None for files that are none."""
    with suppress(Exception), Image.open(path) as picture:
        return picture.mode
    return None


def lossy_format(data: bytes) -> str | None:
    """Which of ``LOSSY`` a file's contents are; None for others."""
    if data[:2] == _JPEG_START:
        return LOSSY[0]
    place = 12 if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else len(data)
    while len(head := data[place : place + 8]) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind == b"VP8 ":  # without loss it is VP8L
            return LOSSY[1]
        place += 8 + length + length % 2
    return None


def orientation(picture: Image.Image) -> int:
    """1..8, as EXIF counts them; 1, upright, where the file says nothing that can be read."""
    try:
        # of a PNG file Pillow decodes the pixels first, since what tells the orientation may lie behind them
        early = isinstance(picture, PngImageFile) and picture.fp and not _metadata_behind_pixels(picture.fp)
        exif = Image.Image.getexif(picture) if early else picture.getexif()
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # whatever Pillow makes of a damaged block
        return 1


def _metadata_behind_pixels(file: IO[bytes]) -> bool:
    """Whether a PNG file has EXIF or text behind its pixels, as the headers of its chunks tell."""
    place, found, pixels = file.tell(), False, False
    file.seek(len(_PNG_START))
    while not found and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        pixels |= kind == b"IDAT"
        found = pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(length + 4, io.SEEK_CUR)  # and the checksum
    file.seek(place)
    return found


def is_deep_png(picture: Image.Image, data: bytes) -> bool:
    """Whether a picture is a PNG of 16 bits in colour or with alpha, of which Pillow keeps 8 bits."""
    return picture.format == "PNG" and data[24] == 16 and data[25] in (2, 4, 6)


def _pixels(picture: Image.Image, data: bytes, name: str | Path) -> np.ndarray:
    """``(H, W, C)`` in the order of the file."""
    if is_deep_png(picture, data):
        return deep_images.deep_png(data)
    if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PPM"):
        return np.array(picture).astype(np.uint16)[:, :, None]
    if picture.mode in ("I", "F"):
        raise InputError(
            f"image {name} has 32-bit pixels (mode {picture.mode}), expected 8 or 16 bits per channel: convert it"
        )
    if picture.mode in ("1", "L", "LA", "La"):
        return np.array(picture.convert("L"))[:, :, None]
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # by way of RGBA, as palettes may hold transparency
    if (picture.mode, picture.format) == ("CMYK", "JPEG") and "adobe" not in picture.info:
        picture = ImageChops.invert(picture)  # Pillow takes every file for one of Adobe's, which hold inverted inks
    return np.array(picture.convert("RGB"))


def converted(image: np.ndarray, channels: int, dtype: np.dtype, name: str | Path) -> np.ndarray:
    """Convert an image ``(*spatial, C)`` to other channels and another type: grey is repeated, of 16 bits the high byte
    is kept.

    Args:
        name: what errors call the image.

    Raises:
        InputError: no such conversion exists.
    """
    if image.dtype != dtype:
        if image.dtype != np.uint16 or dtype != np.uint8:
            deep = "32-bit" if image.dtype.itemsize == 4 else f"{image.dtype}"
            wanted = "8 or 16 bits per channel" if dtype == np.uint8 else f"{dtype}"
            raise InputError(f"image {name} has {deep} pixels ({image.dtype}), expected {wanted}: convert it")
        image = (image >> 8).astype(np.uint8)
    if image.shape[-1] != channels:
        if image.shape[-1] != 1:
            raise InputError(f"image {name} has {image.shape[-1]} channels, expected {channels}: convert it")
        image = np.repeat(image, channels, axis=-1)
    return image


def scaled_size(size: tuple[int, int], longer_side: int | None) -> tuple[int, int]:
    """(height, width) with the longer side at ``longer_side`` pixels and the same proportions; None keeps the size."""
    longest = max(size)
    if longer_side in (None, longest):
        return size
    factor = longer_side / longest
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_image(image: np.ndarray, longer_side: int | None) -> np.ndarray:
    """The image ``(H, W, C)`` at ``scaled_size``: by area averaging where it shrinks, bilinearly where it grows.
    Training and prediction both resize images this way.
    """
    size = scaled_size((image.shape[0], image.shape[1]), longer_side) if longer_side else image.shape[:2]
    if size == image.shape[:2]:
        return image
    return geometry.resize_image(image, size, average=max(size) < max(image.shape[:2]))


def read_bytes(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: it is missing, no regular file, a pointer of Git LFS, or cannot be read; names it.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError(f"{path} cannot be read, as it is not a regular file: check the path")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"file {path} is not there: restore it or remove its sample from the dataset") from None
    except OSError as error:
        raise InputError(f"file {path} cannot be read ({error.strerror}): check the path and its permissions") from None
    if data.startswith(_LFS):
        raise InputError(f"file {path} is a pointer of Git LFS without its content: run git lfs pull in its repository")
    return data


def open_picture(data: bytes, name: str | Path) -> Image.Image:
    """The picture with its pixels loaded. Where Pillow spreads grey values over the whole range, ``info["most"]`` is
    the largest one of the file: of PNG with 2 or 4 bits, and of PGM.

    Args:
        name: what errors call the file.

    Raises:
        InputError: truncated, broken, of another format, or with more pixels than are read whole.
    """
    most = None
    with decoding(name, size=len(data)):
        try:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.format == "PPM" and isinstance(args := picture.tile[0][3], tuple):
                most = args[1]
            picture.load()
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise InputError(
                f"file {name} has more than {limit / 1e6:.0f} million pixels, the most that is read whole: cut it into"
                " parts"
            ) from None
        except Image.UnidentifiedImageError:
            raise ValueError("no known image format") from None
    if picture.format == "PNG":
        if _PNG_END not in data:
            raise InputError(f"file {name} is truncated (its PNG end mark is missing, {len(data)} bytes): replace it")
        bits, color_type = data[24], data[25]  # of the header chunk, which is always first
        if color_type == 0 and bits in (2, 4):
            most = 2**bits - 1
    if most is not None:
        picture.info["most"] = most
    return picture

"""Images that Pillow cannot hold: 16 bits per colour, floating point, more than three channels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from segmodels.data.damage import decoding
from segmodels.data.limits import require_size
from segmodels.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin."""

DTYPES = ("uint8", "uint16", "int16", "float32")

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # TIFF 6.0: PhotometricInterpretation,
ALPHA = (1, 2)  # ExtraSamples


def deep_png(data: bytes) -> NDArray[np.uint16]:
    """A whole PNG of 16 bits per channel, ``(H, W, 1)`` or ``(H, W, 3)``; alpha is dropped.

    Raises:
        ValueError: it is damaged.
    """
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("OpenCV cannot decode it")
    pixels = np.asarray(decoded, np.uint16)
    grey = data[25] in (0, 4)  # the colour type in the header chunk
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(pixels[:, :, :1] if grey else pixels[:, :, 2::-1])


def tiff_bands(data: bytes, name: str | Path) -> tuple[NDArray, int] | None:
    """The channels ``(H, W, C)`` of the first page of a TIFF file as stored, uint8, uint16, int16 or float32, and its
    orientation.

    None for pictures that Pillow reads: 8 bits in up to three channels and alpha, 16-bit grey, palettes, CMYK.

    Args:
        name: what errors call the file.

    Raises:
        InputError: truncated, broken, of another type, several pages of one size, or compressed in a way that is not
            known.
    """
    with _opened(data, name) as file:
        page = file.pages.first
        _require_one_page(file, name)
        if page.dtype is None or _is_picture(page):
            return None
        require_size((page.imagelength, page.imagewidth), name, page.samplesperpixel)
        if page.dtype.name not in DTYPES:
            raise InputError(f"image {name} has {page.dtype} pixels, expected 8 or 16 bits or float32: convert it")
        if any(start + size > len(data) for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise InputError(f"file {name} is truncated ({len(data)} bytes): replace it")
        bands = _decoded(page, data, name)
        if page.dtype == np.uint8 and _alpha(page):
            kinds = [None] * (bands.shape[-1] - len(page.extrasamples)) + list(page.extrasamples)
            bands = bands[..., [kind not in ALPHA for kind in kinds]]
        return bands, int(page.tags.valueof("Orientation", default=1))


def tiff_labels(data: bytes, name: str | Path) -> tuple[NDArray, int] | None:
    """The first page ``(H, W, C)`` of a TIFF file of label ids, whole numbers, and its orientation. None for those that
    Pillow reads as they are: 8 bits, or up to 32 bits of grey.

    Args:
        name: what errors call the file.

    Raises:
        InputError: truncated, broken, of floating-point values, of two channels, several pages of one size, or
            compressed in a way that is not known.
    """
    with _opened(data, name) as file:
        page = file.pages.first
        _require_one_page(file, name)
        if page.samplesperpixel - _alpha(page) == 2:
            raise InputError(
                f"mask {name} has 2 channels, expected one of label ids, or colours: store the number of each pixel's"
                " class (of masks with a channel per class their argmax)"
            )
        if page.dtype is None or page.dtype.itemsize * 8 <= (32 if page.samplesperpixel == 1 else 8):
            return None
        require_size((page.imagelength, page.imagewidth), name, page.samplesperpixel)
        if page.dtype.kind not in "ui":
            raise InputError(f"mask {name} has {page.dtype} pixels, expected whole numbers: convert it")
        return _decoded(page, data, name), int(page.tags.valueof("Orientation", default=1))


@contextmanager
def _opened(data: bytes, name: str | Path) -> Iterator[TiffFile]:
    """The file; what goes wrong in the block is one sentence."""
    from tifffile import TiffFile

    with decoding(name, size=len(data)), TiffFile(io.BytesIO(data)) as file:
        yield file


def _require_one_page(file: TiffFile, name: str | Path) -> None:
    """Further pages may be smaller copies of the first, or masks of its valid pixels."""
    count = len(file.pages)
    for number in range(1, count):
        page = cast("TiffPage", file.pages[number])
        same = (page.imagelength, page.imagewidth) == (file.pages.first.imagelength, file.pages.first.imagewidth)
        if same and not (page.is_reduced or page.is_mask):
            raise InputError(
                f"file {name} has {count} pages of one size, expected one page: save each as a file of its own, or all"
                " as channels of one page"
            )


def _is_picture(page: TiffPage) -> bool:
    if page.dtype == np.uint16:
        return page.samplesperpixel == 1
    if page.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        return False
    expected = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(page.photometric)
    return expected is None or page.samplesperpixel - _alpha(page) == expected


def _alpha(page: TiffPage) -> int:
    """Channels that the file declares to be alpha."""
    return sum(kind in ALPHA for kind in page.extrasamples)


def _decoded(page: TiffPage, data: bytes, name: str | Path) -> NDArray:
    """``(H, W, C)`` in the machine's byte order."""
    try:
        pixels = np.asarray(page.asarray())
        pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        pixels = _by_opencv(page, data, name)
    pixels = pixels.reshape(page.imagelength, page.imagewidth, -1)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _by_opencv(page: TiffPage, data: bytes, name: str | Path) -> NDArray:
    """For compressions that tifffile has no code for, such as LZW; up to four channels."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if page.samplesperpixel <= 4 else None
    if pixels is None or pixels.dtype != page.dtype:
        raise InputError(
            f"file {name} has the compression {getattr(page.compression, 'name', page.compression)} with"
            f" {page.samplesperpixel} channels, expected none or deflate: store it so"
        )
    return pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]] if pixels.ndim == 3 else pixels

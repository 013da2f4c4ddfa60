"""Images too large to be held in memory, read a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmodels.data.damage import decoding
from segmodels.data.decoding import FORMATS, read_image
from segmodels.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

LARGE = 2**25
"""Pixels, 33.5 million; above, an image is read row by row, predicted in windows and its mask is written in tiles."""

NONE, ADOBE_DEFLATE, DEFLATE = 1, 8, 32946  # TIFF 6.0: Compression,
BLACK_IS_ZERO, RGB = 1, 2  # PhotometricInterpretation,
CONTIGUOUS = 1  # PlanarConfiguration,
PREMULTIPLIED_ALPHA = 1  # ExtraSamples

PIXELS_OF_A_STRIP = 2**27
"""The most that is unpacked at once of a compressed TIFF file: 400 MB of RGB."""

VALUES_AT_ONCE = 2**21  # of float32 rows while shrinking, 8 MB
BYTES_AT_ONCE = 2**24  # read from uncompressed files


class ImageRows(Protocol):
    """An image that is read a few rows at a time, from the top down."""

    height: int
    width: int

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows ``start`` .. ``stop - 1``, RGB (stop - start, width, 3)."""


class ArrayRows:
    """The rows of an image (H, W, 3) that is in memory."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._image = image
        self.height, self.width = image.shape[:2]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self._image[start:stop]


class TiffRows:
    """The rows of the first page of a TIFF file. Of a compressed file one row of tiles, or one strip, is held at a
    time.
    """

    def __init__(self, path: Path, file: TiffFile) -> None:
        self._path, self._file = path, file
        self._page = _first_page(file)
        self.height, self.width = self._page.imagelength, self._page.imagewidth
        self._segment_rows = self._page.tilelength if self._page.is_tiled else self._page.rowsperstrip
        at_once = min(self._segment_rows, self.height) * self.width
        if not self._page.is_final and at_once > PIXELS_OF_A_STRIP:
            raise InputError(
                f"file {path} has strips of {at_once / 1e6:.0f} million pixels, expected at most"
                f" {PIXELS_OF_A_STRIP / 1e6:.0f} million: store it in tiles or in smaller strips"
            )
        self._held: tuple[int, NDArray[np.uint8]] | None = None  # the segments decoded last: their row, their pixels

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows ``start`` .. ``stop - 1``, RGB.

        Raises:
            InputError: the file ends too early or holds broken data.
        """
        with decoding(self._path, f"in rows {start} to {stop - 1}"):
            if self._page.is_final:
                return self._stored_rows(start, stop)
            parts = []
            for number in range(start // self._segment_rows, (stop - 1) // self._segment_rows + 1):
                first = number * self._segment_rows
                parts.append(self._segments(number)[max(start - first, 0) : stop - first])
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _stored_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows of a file that holds the plain pixels one after the other."""
        page = self._page
        dtype, row = np.dtype(page.dtype).newbyteorder(self._file.byteorder), self.width * page.samplesperpixel
        rows = np.empty((stop - start, self.width, 3), dtype=np.uint8)
        at_once = max(BYTES_AT_ONCE // (row * dtype.itemsize), 1)
        for first in range(start, stop, at_once):
            last = min(first + at_once, stop)
            values = np.fromfile(
                self._path, dtype, (last - first) * row, offset=page.dataoffsets[0] + first * row * dtype.itemsize
            )
            rows[first - start : last - start] = _rgb(values.reshape(last - first, self.width, page.samplesperpixel))
        return rows

    def _segments(self, number: int) -> NDArray[np.uint8]:
        """The strip of that number, or the row of tiles side by side."""
        if self._held is None or self._held[0] != number:
            page = self._page
            across = math.ceil(self.width / page.tilewidth) if page.is_tiled else 1
            rows = np.zeros(
                (min(self._segment_rows, self.height - number * self._segment_rows), self.width, 3), dtype=np.uint8
            )
            for index in range(number * across, (number + 1) * across):
                self._file.filehandle.seek(page.dataoffsets[index])
                pixels, (*_, left, _), _ = page.decode(
                    self._file.filehandle.read(page.databytecounts[index]) or None, index
                )
                if pixels is not None:  # else a tile that the file leaves out: black
                    rows[:, left : left + pixels.shape[2]] = _rgb(pixels[0, : len(rows), : self.width - left])
            self._held = number, rows
        return self._held[1]


def is_large(path: Path) -> bool:
    """Whether an image has more than ``LARGE`` pixels, from its header; False if it cannot be read."""
    with suppress(Exception):  # reading it tells what is wrong
        file = _open_tiff(path)
        if file is not None:
            with file:
                page = _first_page(file)
                return page.imagelength * page.imagewidth > LARGE
        with Image.open(path, formats=FORMATS) as picture:
            return picture.width * picture.height > LARGE
    return False


@contextmanager
def open_rows(path: Path) -> Iterator[ImageRows]:
    """The rows of an image, pixels as ``read_image`` gives them.

    Upright TIFF files in grey or RGB of 8 or 16 bits, uncompressed or deflated, in strips or tiles, are read a few rows
    at a time. All others are read whole.

    Raises:
        InputError: as ``read_image``; or the strips of a compressed TIFF file are too large.
    """
    with ExitStack() as stack:
        file = _open_tiff(path)
        if file is not None:
            stack.enter_context(file)
        with decoding(path):
            by_rows = file is not None and _decodable(_first_page(file))
        yield TiffRows(path, file) if file is not None and by_rows else ArrayRows(read_image(path))


def shrink(image: ImageRows, height: int, width: int) -> NDArray[np.uint8]:
    """The image at a smaller size (height, width, 3) by area averaging, read a few rows at a time."""
    small = np.empty((height, width, 3), dtype=np.uint8)
    step = image.height / height
    at_once = max(int(VALUES_AT_ONCE / (step * image.width * 3)), 1)
    for first in range(0, height, at_once):
        last = min(first + at_once, height)
        start, stop = math.floor(first * step), min(math.ceil(last * step - 1e-9), image.height)
        rows = cv2.resize(
            image.read(start, stop).astype(np.float32), (width, stop - start), interpolation=cv2.INTER_AREA
        )
        edges = np.arange(first, last + 1) * step - start
        small[first:last] = np.rint(_integral(rows, edges) / step)
    return small


def _integral(rows: NDArray, edges: NDArray) -> NDArray[np.float64]:
    """Sums of ``rows`` (n, ...) between consecutive ``edges``, which may lie within rows."""
    cumulated = np.concatenate([np.zeros_like(rows[:1], dtype=np.float64), np.cumsum(rows, axis=0, dtype=np.float64)])
    whole = np.minimum(edges.astype(np.int64), len(rows) - 1)
    fraction = (edges - whole)[:, None, None]
    return np.diff(cumulated[whole] + fraction * rows[whole], axis=0)


def _open_tiff(path: Path) -> TiffFile | None:
    """None if it is not a TIFF file, or none that can be read."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    from tifffile import TiffFile

    with suppress(Exception), ExitStack() as stack:
        file = stack.enter_context(TiffFile(path))
        if len(file.pages):
            stack.pop_all()  # it stays open
            return file
    return None


def _first_page(file: TiffFile) -> TiffPage:
    return cast("TiffPage", file.pages[0])


def _decodable(page: TiffPage) -> bool:
    """Whether its rows can be read without the rest and without further packages, and mean what ``_rgb`` takes them
    for.
    """
    return (
        page.compression in (NONE, ADOBE_DEFLATE, DEFLATE)
        and page.planarconfig == CONTIGUOUS
        and page.tags.valueof("Orientation", default=1) == 1
        and (page.photometric, page.samplesperpixel) in ((BLACK_IS_ZERO, 1), (RGB, 3), (RGB, 4))
        and page.extrasamples != (PREMULTIPLIED_ALPHA,)
        and page.dtype in (np.uint8, np.uint16)
        and page.shaped[:2] == (1, 1)
    )


def _rgb(pixels: NDArray) -> NDArray[np.uint8]:
    """Grey, RGB or RGBA of 8 or 16 bits (h, w, 1, 3 or 4) -> RGB: alpha is dropped, of 16 bits the high byte is
    kept.
    """
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels[:, :, :3]

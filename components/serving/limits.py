"""Limits of a request, checked before anything large is allocated."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

from PIL import Image

from segmodels.data.decoding import FORMATS
from segmodels.errors import InputError


class TooLarge(InputError):
    """A request beyond the limits: HTTP status 413."""


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Attributes:
        pixels: of its images together.
        length: bytes of its body.
    """

    pixels: int
    length: int

    def check_pixels(self, count: int, what: str) -> None:
        """Raises TooLarge."""
        if count > self.pixels:
            raise TooLarge(
                f"{what}, {count / 1e6:.1f} megapixels, expected at most {self.pixels / 1e6:g}: send fewer or smaller"
                " images"
            )

    def check_header(self, data: bytes, name: str) -> None:
        """Check the size in an image file's header before its pixels are unpacked: a file of kilobytes may unpack to
        gigabytes.

        Raises:
            TooLarge: more pixels than allowed.
        """
        try:
            width, height = Image.open(io.BytesIO(data), formats=FORMATS).size  # reads no pixels
        except Image.DecompressionBombError:
            raise TooLarge(
                f"image {name} has more than {2e-6 * (Image.MAX_IMAGE_PIXELS or 0):.0f} megapixels: send a smaller"
                " image"
            ) from None
        except (OSError, ValueError, SyntaxError, EOFError):
            return  # not an image: the decoder has the better message
        self.check_pixels(width * height, f"image {name} is {width} x {height} pixels")

    async def within(self, chunks: AsyncIterator[bytes], announced: str | None) -> AsyncIterator[bytes]:
        """The body's chunks; ``announced`` is its Content-Length, if it came with one.

        Raises:
            TooLarge: as soon as it is known.
        """
        if announced and announced.isdecimal() and int(announced) > self.length:
            raise self._too_long(int(announced))
        received = 0
        async for chunk in chunks:
            received += len(chunk)
            if received > self.length:
                raise self._too_long(received)
            yield chunk

    def _too_long(self, length: int) -> TooLarge:
        return TooLarge(
            f"request has {length / 1e6:.1f} megabytes or more, expected at most {self.length / 1e6:g}: send fewer or"
            " smaller images"
        )

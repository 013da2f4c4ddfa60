"""Limits of a request, checked before anything large is allocated."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from segmodels.data.decoding import FORMATS
from segmodels.errors import InputError
from segmodels.inference.predictor import padded_pixels

BODIES_AT_ONCE = 4
"""Bodies of the largest size that may be in flight together."""


class TooLarge(InputError):
    """A request beyond the limits: HTTP status 413."""


class TooSlow(InputError):
    """A body that takes too long to arrive: HTTP status 408."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Attributes:
        images: number of its images.
        pixels: of its images together. Sides below ``LEAST_SIDE`` count as that, because networks pad them.
        length: bytes of its body. All requests in flight together may hold ``BODIES_AT_ONCE`` times as many.
        seconds: from its first byte read to the end of its body.
    """

    images: int
    pixels: int
    length: int
    seconds: float = 60.0

    def check_images(self, count: int, size: Sequence[int], what: str) -> None:
        """Check ``count`` images of the same size (*spatial).

        Raises:
            TooLarge: too many images, or too many pixels.
        """
        if count > self.images:
            raise TooLarge(f"{what}, {count} images, expected at most {self.images}: send several requests")
        pixels = count * padded_pixels(tuple(size))
        if pixels > self.pixels:
            raise TooLarge(
                f"{what}, {pixels / 1e6:.1f} megapixels, expected at most {self.pixels / 1e6:g}: send fewer or smaller"
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
        except Exception:
            return  # not an image: the decoder has the better message
        self.check_images(1, (height, width), f"image {name} is {width} x {height} pixels")

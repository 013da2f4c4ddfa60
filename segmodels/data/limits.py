"""Sizes above which images and volumes are refused, before memory is spent on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from segmodels.data.sizes import size_in_words
from segmodels.errors import InputError

MOST_PIXELS = 178_956_970
"""Most pixels of an image that is read whole; Pillow refuses files above it as decompression bombs."""

MOST_VALUES = 2**30
"""Most values of a volume, a stack of pages or all channels of an image: 4 GB of float32."""


def require_size(size: Sequence[int], name: str | Path, channels: int = 1) -> None:
    """Check the size ``(*spatial)`` that a file states.

    Args:
        name: what errors call the file.

    Raises:
        InputError: a side below 1, or more pixels or values than are read whole.
    """
    if min(size, default=0) < 1:
        raise InputError(f"file {name} states the size {list(size)}, expected sides of at least 1: replace it")
    pixels = math.prod(size)
    if len(size) == 2 and pixels > MOST_PIXELS:
        raise InputError(
            f"file {name} has more than {MOST_PIXELS / 1e6:.0f} million pixels ({size_in_words(size)}), the most that"
            " is read whole: cut it into parts"
        )
    if pixels * channels > MOST_VALUES:
        raise InputError(
            f"file {name} states the size {list(size)} with {channels} channels, {pixels * channels:,} values, expected"
            f" at most {MOST_VALUES:,}: cut it into parts"
        )

"""Variables of Matlab files, by scipy."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmodels.data.limits import MOST_PIXELS
from segmodels.errors import InputError
from segmodels.files import reading

HEADER = 128
"""Bytes before the first element of a file of version 5 (MAT-File Format, MathWorks)."""

COMPRESSED = 15
"""Type of an element that holds another one, deflated."""


def matlab_variable(path: Path, name: str) -> NDArray[Any]:
    """A variable of a Matlab file.

    Raises:
        InputError: missing, damaged, without the variable, or with more values than are read whole; names the file.
    """
    import scipy.io

    with reading(path, damaged="replace it"):
        _require_sizes(path)
        values: NDArray[Any] = scipy.io.loadmat(str(path), variable_names=[name])[name]
        return np.asarray(values)


def _require_sizes(path: Path) -> None:
    """Check the sizes that deflated elements state."""
    data = path.read_bytes()
    order = "<" if data[126:HEADER] == b"IM" else ">"
    place = HEADER
    while place + 8 <= len(data) and data[126:HEADER] in (b"IM", b"MI"):
        kind, size = struct.unpack_from(f"{order}2I", data, place)
        place += 8
        if kind == COMPRESSED:
            inner = zlib.decompressobj().decompress(data[place : place + min(size, 1024)], 8)
            stated = struct.unpack(f"{order}2I", inner)[1] if len(inner) == 8 else 0
            if stated > MOST_PIXELS:
                raise InputError(
                    f"file {path} states a variable of {stated:,} bytes, expected at most {MOST_PIXELS:,}: replace it"
                )
        place += size

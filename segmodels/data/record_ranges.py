"""Where the records of an Arrow file lie, by its footer alone: one can then be read without the rest of the file.

pyarrow finds records by the footer, too, but does not say where they are. Source: Apache Arrow, "IPC File Format" and
format/File.fbs; FlatBuffers, "Internals".
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

MAGIC = b"ARROW1"
TRAILER = 4 + len(MAGIC)
"""Bytes at the end of a file: the footer's size, and ``MAGIC``."""

HEAD = b"\xff\xff\xff\xff"
"""Begins every record."""

RECORD_BATCHES = 3
"""Number of the footer's field with the blocks of the records."""

BLOCK = np.dtype(
    {"names": ["offset", "metadata", "body"], "formats": ["<i8", "<i4", "<i8"], "offsets": [0, 8, 16], "itemsize": 24}
)


def record_ranges(end: bytes | memoryview, size: int) -> NDArray[np.int64]:
    """For each record its first byte and the byte after its last, ``(N, 2)``, in the order of the file.

    Args:
        end: last bytes of the file, with the whole footer.
        size: of the file, bytes.

    Raises:
        ValueError: the footer is damaged.
    """
    if (footer_bytes := footer_size(end)) > len(end):
        raise ValueError(f"its footer is damaged, {footer_bytes} bytes long")
    footer = bytes(end[-footer_bytes:-TRAILER])
    try:
        (table,) = struct.unpack_from("<I", footer)
        vtable = table - struct.unpack_from("<i", footer, table)[0]
        (place,) = struct.unpack_from("<H", footer, vtable + 4 + 2 * RECORD_BATCHES)
        vector = table + place + struct.unpack_from("<I", footer, table + place)[0]
        (count,) = struct.unpack_from("<I", footer, vector)
        blocks = np.frombuffer(footer, BLOCK, count, vector + 4)
    except (struct.error, ValueError) as error:
        raise ValueError(f"its footer is damaged ({error})") from None
    ranges = np.stack([blocks["offset"], blocks["offset"] + blocks["metadata"] + blocks["body"]], axis=1)
    if (np.diff(ranges.reshape(-1), prepend=0, append=size) < 0).any():
        raise ValueError("its footer is damaged, records overlap")
    return ranges


def footer_size(end: bytes | memoryview) -> int:
    """Bytes of the footer and the trailer, by the last bytes of a file.

    Raises:
        ValueError: no Arrow file ends like this.
    """
    if bytes(end[-len(MAGIC) :]) != MAGIC or (size := int.from_bytes(end[-TRAILER : -len(MAGIC)], "little")) < 8:
        raise ValueError("it does not end as an Arrow file")
    return size + TRAILER

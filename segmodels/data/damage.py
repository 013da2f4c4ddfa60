"""Damaged files: whatever a decoder makes of them, the user reads one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmodels.errors import InputError
from segmodels.files import reason


@contextmanager
def decoding(name: str | Path, part: str = "", size: int | None = None) -> Iterator[None]:
    """A block in which Pillow, OpenCV, tifffile or nibabel decodes a file of a user: on damaged ones they raise errors
    of any type. ``files.reading`` is for files of this project.

    Args:
        name: what errors call the file.
        part: of the file, such as ``in page 2``.
        size: of the file in bytes, if it is known.

    Raises:
        InputError: the file is truncated or broken; or as the block raises it.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        place, length = f" {part}" if part else "", "" if size is None else f", {size} bytes"
        raise InputError(f"file {name} is truncated or broken{place} ({reason(error)}{length}): replace it") from None

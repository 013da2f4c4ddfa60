"""Content hashes of files and folders, as DVC computes them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.running.progress_bar import track
from segmodels.data.folder_files import files_below
from segmodels.errors import InputError

THREADS = min(16, (os.cpu_count() or 1) + 4)


def file_md5(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for its writer
            raise InputError(f"{path} is not a regular file: remove it from the dataset")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise InputError(
            f"file {path} cannot be read ({error.strerror}): restore it or its permissions, or remove it from the"
            " dataset"
        ) from None


def folder_md5s(root: Path) -> dict[str, str]:
    """Path relative to ``root``, with ``/`` -> md5, of every file below ``root``.

    Raises:
        InputError: as ``files_below``, or a file cannot be read.
    """
    files = files_below(root)
    return dict(zip(files, md5s(root, files), strict=True))


def md5s(root: Path, files: Sequence[str]) -> list[str]:
    """md5 of each of ``files`` below ``root``; hashlib frees the interpreter, so threads use all cores."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(track(pool.map(lambda name: file_md5(root / name), files), "hashing files", len(files)))


def directory_digest(files: Mapping[str, str]) -> str:
    """``<md5>.dir``: what ``dvc add`` writes for a directory with these files (relative path -> md5)."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def folder_digest(root: Path) -> str:
    """md5 of the names and contents of all files below ``root``."""
    return directory_digest(folder_md5s(root)).removesuffix(".dir")

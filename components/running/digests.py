"""Content hashes of files and folders, as DVC computes them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.running.progress_bar import track
from segmodels.errors import InputError

THREADS = min(16, (os.cpu_count() or 1) + 4)

NOT_DATA = (".git", ".hg", ".dvc")
"""What DVC leaves out of a directory by itself."""


def file_md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise InputError(
            f"file {path} cannot be read ({error.strerror}): restore it or its permissions, or remove it from the"
            " dataset"
        ) from None


def folder_md5s(root: Path) -> dict[str, str]:
    """Path relative to ``root``, with ``/`` -> md5, of every file below ``root``."""
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in NOT_DATA]
        here = os.path.relpath(folder, root)
        files += [os.path.normpath(f"{here}/{name}").replace(os.sep, "/") for name in names if name != ".git"]
    return dict(zip(files, md5s(root, files), strict=True))


def md5s(root: Path, files: Sequence[str]) -> list[str]:
    """md5 of each of ``files`` below ``root``; hashlib frees the interpreter, so threads use all cores."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(track(pool.map(lambda name: file_md5(root / name), files), "hashing files", len(files)))


def directory_digest(files: Mapping[str, str]) -> str:
    """``<md5>.dir``: what ``dvc add`` writes for a directory with these files (relative path -> md5)."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def folder_digest(root: Path) -> str:
    """md5 of the names and contents of all files below ``root``."""
    return directory_digest(folder_md5s(root)).removesuffix(".dir")

"""The files of a dataset folder: one walk for all that lists, hashes or reads them."""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections.abc import Container
from pathlib import Path

from segmodels.errors import InputError

NOT_DATA = (".git", ".hg", ".dvc")
"""Names that DVC leaves out of a directory."""

LEFTOVERS = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
"""Files and folders that archives, file managers and file servers leave behind."""

_KINDS = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def files_below(root: Path) -> list[str]:
    """Paths relative to ``root``, with ``/``, of all files below it; links to files and folders are followed.

    They are sorted by the names on their way: ``a/b`` comes before ``a-b``.

    Raises:
        InputError: a folder cannot be read; an entry is neither a file nor a folder, leads nowhere or in a circle, or
            has a name that is not UTF-8; names it.
    """
    found: list[str] = []
    folders = [("", frozenset[tuple[int, int]]())]  # and the folders around each, by device and inode
    while folders:
        folder, around = folders.pop()
        here = _identity(root, folder)
        if here in around:
            raise InputError(f"folder {root / folder} is a link to a folder that it lies in: remove the link")
        for entry in _entries(root, folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(root, name, entry):
                if entry.name not in NOT_DATA:
                    folders.append((name, around | {here}))
            elif entry.name != ".git":
                found.append(name)
    return sorted(found, key=lambda name: name.split("/"))


def data_files_below(root: Path) -> list[str]:
    """As ``files_below``, without leftovers and what lies in folders that are some."""
    return [name for name in files_below(root) if not any(map(is_leftover, name.split("/")))]


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or left behind by archives, file managers and file servers."""
    return name.startswith(".") or name in LEFTOVERS


def as_spelled(path: Path) -> Path:
    """The path; where nothing is there, the entry of its folder whose name differs in capitals alone: Classes.txt."""
    if path.exists() or not path.parent.is_dir():
        return path
    alike = (entry for entry in sorted(path.parent.iterdir()) if entry.name.lower() == path.name.lower())
    return next(alike, path)


def with_ending_spelled(path: str, files: Container[str]) -> str:
    """The path; where ``files`` lack it, with its ending in small or in capital letters, if they have it so."""
    start, ending = posixpath.splitext(path)
    return next((form for form in (path, start + ending.lower(), start + ending.upper()) if form in files), path)


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): macOS writes é as two characters, most other systems as one."""
    return unicodedata.normalize("NFC", name)


def _entries(root: Path, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(
            f"folder {root / folder} cannot be read ({error.strerror}): check the path and its permissions"
        ) from None


def _identity(root: Path, folder: str) -> tuple[int, int]:
    try:
        facts = (root / folder).stat()
    except OSError as error:
        raise InputError(
            f"folder {root / folder} cannot be read ({error.strerror}): check the path and its permissions"
        ) from None
    return facts.st_dev, facts.st_ino


def _is_folder(root: Path, name: str, entry: os.DirEntry[str]) -> bool:
    """False for a regular file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = str(os.fsencode(name))[2:-1]
        raise InputError(
            f"folder {root} holds a file whose name is not UTF-8, {raw}: rename it (for all names at once:"
            " convmv -r --notest -f latin1 -t utf8 FOLDER)"
        ) from None
    try:
        if entry.is_file():
            return False
        if entry.is_dir():
            return True
        mode = entry.stat().st_mode
    except OSError as error:  # of a link
        raise InputError(
            f"folder {root} holds the link {name}, which cannot be followed ({error.strerror}): restore its"
            " target or remove it"
        ) from None
    kind = _KINDS.get(stat.S_IFMT(mode), "special file")
    raise InputError(f"folder {root} holds {name}, a {kind}, expected only files and folders: remove it")

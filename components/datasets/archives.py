"""Untrusted archives: only their files are unpacked, below one folder, and no more than the disk has room for."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from components.running.progress_bar import track
from segmodels.errors import InputError

LARGEST_RATIO = 200
"""Bytes of the files for a byte of the archive; JSON of annotations has up to 20."""
SMALLEST_LIMIT = 2**30
"""Bytes of files that any archive may have."""
MOST_FILES = 5_000_000
NO_DATA = ("__MACOSX", ".DS_Store")
"""What file managers leave in archives."""

Member = tuple[str, int, "IO[bytes] | None"]
"""Name, number of bytes, and content of a file in an archive; None for a folder."""


def unpack(archive: Path, folder: Path, part: str = "") -> int:
    """Unpack the files of a zip or tar archive below ``folder``; zip archives among them are unpacked in their place.

    Args:
        part: the only folder that is wanted, with a final slash; ``*/`` stands for any one folder.

    Returns:
        the number of files.

    Raises:
        InputError: it is not an archive, is damaged, holds links, devices or names that lead out of ``folder``, lacks
            ``part``, or unpacks to more than 200 times its size or than the disk has room for.
        OSError: the disk is full.
    """
    count = _unpack(archive, folder, PurePosixPath(part).parts)
    if not count:
        raise InputError(f"{archive} holds no files{f' below {part}' * bool(part)}: remove it and fetch it again")
    for inner in sorted(folder.rglob("*.zip")):
        count += _unpack(inner, inner.parent, ()) - 1
        inner.unlink()
    return count


def _unpack(archive: Path, folder: Path, part: tuple[str, ...]) -> int:
    limit = max(SMALLEST_LIMIT, LARGEST_RATIO * archive.stat().st_size)
    written = count = 0
    try:
        for name, size, content in track(_members(archive), f"unpacking {archive.name}", total=None):
            place = _place(name, archive, part)
            written, count = written + size, count + 1
            if written > limit or count > MOST_FILES:
                raise InputError(
                    f"{archive} unpacks to more than {limit / 1e9:.0f} GB or {MOST_FILES} files, which no dataset of"
                    " its size does: remove it and check where it comes from"
                )
            if place is None:
                count -= 1
                continue
            target = folder / place
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                count -= 1
                continue
            if size > shutil.disk_usage(folder).free:
                raise InputError(f"the disk of {folder} has no room for {name} of {archive}: free some space")
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file, 2**20)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive} is damaged ({error}): remove it and fetch it again") from None
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(
            f"{archive} holds a file and a folder of one name ({error.filename}): remove it and check where it comes"
            " from"
        ) from None
    return count


def _place(name: str, archive: Path, part: tuple[str, ...]) -> PurePosixPath | None:
    """Where a file goes, relative to the folder; None: it is not wanted."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise _unsafe(name, archive)
    if any(one in NO_DATA for one in path.parts):
        return None
    if len(path.parts) < len(part) or any(own not in ("*", one) for own, one in zip(part, path.parts, strict=False)):
        return None
    return PurePosixPath(*path.parts[len(part) :])


def _members(archive: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                kind = info.external_attr >> 28  # of the file's mode: 0 unknown, 4 folder, 8 file
                if info.flag_bits & 1 or (kind not in (0, 4, 8) and info.create_system == 3):
                    raise _unsafe(info.filename, archive)
                yield info.filename, info.file_size, None if info.is_dir() else file.open(info)
        return
    with tarfile.open(archive, "r|*") as stream:
        for entry in stream:
            if not (entry.isreg() or entry.isdir()):
                raise _unsafe(entry.name, archive)
            yield entry.name, entry.size, stream.extractfile(entry) if entry.isreg() else None


def _unsafe(name: str, archive: Path) -> InputError:
    return InputError(
        f"{archive} holds {name!r}, expected only files and folders below the dataset's own: remove it and check where"
        " it comes from"
    )

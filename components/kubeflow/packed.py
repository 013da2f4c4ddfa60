"""Artifacts of many small files travel as one: Kubeflow's launcher transfers file after file, one request each.

A step on a cluster reads and writes folders all the same: its inputs are unpacked before it runs, its output is packed
afterwards. The same files give the same bytes of the archive. An archive above ``LARGEST`` is a folder of its pieces
``piece-000``, ...: `cat` puts them together.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from components.steps import Step
from segmodels.errors import InputError

WORK = Path("data")
"""In the working directory of the image: the profile's ``scratch``."""

LARGEST = 32 << 30
"""Bytes of a file. The launcher uploads at most 10,000 parts of 5 MiB of each, 48.8 GiB: it gives the S3 client a
stream without a length (uploadFile in backend/src/v2/objectstore/object_store.go of Kubeflow Pipelines 2.17).
"""

PIECE = "piece-"


@contextmanager
def unpacked(step: Step, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of ``step``, with folders in the place of the archives among its inputs while the block runs.

    Raises:
        InputError: an archive is damaged.
    """
    WORK.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=WORK, prefix=".unpacked-") as temporary:
        folders = dict(options)
        for name in step.reads:
            if _is_archive(options[name]):
                folders[name] = Path(temporary) / name
                unpack(options[name], folders[name])
        yield folders


def pack_output(folder: Path) -> None:
    """Put the archive of ``folder`` in its place. Both together take little more room than one."""
    archive = folder.with_name(f".{folder.name}.tar")
    pack(folder, archive, remove=True)
    shutil.rmtree(folder)
    archive.replace(folder)


def pack(folder: Path, archive: Path, *, remove: bool = False) -> None:
    """Write the files below ``folder`` into a tar archive: sorted, without owners and times; links as what they name.
    ``archive`` is a file, or a folder of several.

    Args:
        remove: delete each file once it is in the archive, if the folder has no symbolic links.

    Raises:
        OSError: the disk is full.
    """
    remove = remove and not any(path.is_symlink() for path in folder.rglob("*"))  # what they name is not ours
    file: Any = _Pieces(archive)
    with closing(file), tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, dereference=True) as tar:
        for here, subfolders, names in os.walk(folder, followlinks=True):
            subfolders.sort()
            for path in [Path(here), *(Path(here) / name for name in sorted(names))]:
                entry = tar.gettarinfo(path, path.relative_to(folder).as_posix())
                entry.mtime = entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                if path.is_dir():
                    entry.mode = 0o755
                    tar.addfile(entry)
                    continue
                entry.mode = 0o644
                # a second name of a file is a file, not a link
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
                with path.open("rb") as content:
                    tar.addfile(entry, content)
                if remove:
                    path.unlink()


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of ``archive`` into ``folder``, and nothing elsewhere: only ``extractall`` of newer Pythons 3.11
    knows how to.

    Raises:
        InputError: it is damaged, or holds anything but files and folders below ``folder``.
        OSError: the disk is full.
    """
    file: Any = _Joined(archive)
    try:
        with closing(file), tarfile.open(fileobj=file, mode="r|") as tar:
            for entry in tar:
                name, content = PurePosixPath(entry.name), tar.extractfile(entry) if entry.isfile() else None
                if name.is_absolute() or ".." in name.parts or not (content or entry.isdir()):
                    raise tarfile.ReadError(f"{entry.name!r} is neither a file nor a folder below it")
                if content is None:
                    (folder / name).mkdir(parents=True, exist_ok=True)
                else:
                    with content, (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"artifact {archive} is damaged ({error}): run the pipeline again without the cache, so that its step"
            " writes it anew"
        ) from None


def _is_archive(path: Path) -> bool:
    return path.is_file() or (path / f"{PIECE}000").is_file()


class _Pieces:
    """A file to write, as far as tarfile needs one; above ``LARGEST`` bytes a folder of several."""

    def __init__(self, path: Path) -> None:
        self._path, self._count, self._written, self._room = path, 0, 0, LARGEST
        self._file = path.open("wb")

    def tell(self) -> int:
        return self._written

    def write(self, data: bytes) -> int:
        if len(data) > self._room:
            self._next()
        self._room -= len(data)
        self._written += len(data)
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def _next(self) -> None:
        self._file.close()
        if not self._count:
            first = self._path.replace(self._path.with_name(f"{self._path.name}-{PIECE}000"))
            self._path.mkdir()
            first.replace(self._path / f"{PIECE}000")
        self._count, self._room = self._count + 1, LARGEST
        self._file = (self._path / f"{PIECE}{self._count:03}").open("wb")


class _Joined:
    """A file to read, as far as tarfile needs one: an archive, whether it is in pieces or not."""

    def __init__(self, archive: Path) -> None:
        first, *self._next = sorted(archive.glob(f"{PIECE}*")) if archive.is_dir() else [archive]
        self._file = first.open("rb")

    def read(self, size: int) -> bytes:
        while not (data := self._file.read(size)) and self._next:
            self._file.close()
            self._file = self._next.pop(0).open("rb")
        return data

    def close(self) -> None:
        self._file.close()

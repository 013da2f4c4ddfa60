"""Copies of files on the local disk, which processes share and which give way to newer ones."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from segmodels.data.shared_calls import SharedCalls
from segmodels.errors import InputError, refusal

PARTIAL, LOCK = ".partial", ".lock"

_making = SharedCalls()


@dataclass(frozen=True)
class FileCache:
    """A folder of copies. They stay until others need the room: those not opened for longest are removed, which does
    not disturb processes that have them open or mapped.

    Attributes:
        folder: may be emptied at any time.
        limit: bytes of all files in it.
    """

    folder: Path
    limit: float

    def open(self, name: str, size: int, begin: Callable[[BinaryIO], None]) -> BinaryIO:
        """The copy of this name, for reading and writing. One process or thread makes it, the others wait.

        Args:
            size: of the copy, bytes; zeros at first.
            begin: puts into a new copy what all who open it shall find there.

        Raises:
            InputError: the local disk refuses.
            Exception: what ``begin`` raises.
        """
        path = self.folder / name
        while True:
            with suppress(FileNotFoundError), self._on_disk():
                copy = path.open("r+b")
                modified = os.fstat(copy.fileno()).st_mtime_ns
                os.utime(copy.fileno(), ns=(time.time_ns(), modified))  # the file system may not note accesses
                return copy
            _making.make(path, lambda: self._make(path, size, begin))

    def write(self, copy: BinaryIO, offset: int, data: memoryview) -> None:
        """Put all of ``data`` into a copy. Raises InputError: the local disk refuses."""
        with self._on_disk():
            while data:
                written = os.pwrite(copy.fileno(), data, offset)
                data, offset = data[written:], offset + written

    def remove(self, name: str) -> None:
        """Remove a copy, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def _make(self, path: Path, size: int, begin: Callable[[BinaryIO], None]) -> None:
        """Make a copy, unless another process does. One of its final name has what ``begin`` gives."""
        partial = path.with_name(path.name + PARTIAL)
        with self._on_disk():
            self.folder.mkdir(parents=True, exist_ok=True)
            opened = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        with opened as copy:
            fcntl.flock(copy, fcntl.LOCK_EX)  # waits for whoever makes it now
            if not _is_still(partial, copy):
                return
            try:
                if not path.exists():
                    with suppress(FileNotFoundError):  # the folder has just been removed, with this copy
                        self._make_room(copy, size)
                    begin(copy)
                    with suppress(FileNotFoundError), self._alone():
                        if _is_still(partial, copy):
                            partial.replace(path)
            finally:
                if _is_still(partial, copy):
                    partial.unlink()

    def _make_room(self, copy: BinaryIO, size: int) -> None:
        """Remove what was not opened for longest until there is room for ``copy``, and give it its size."""
        with self._alone():
            os.truncate(copy.fileno(), 0)
            files = sorted(_files(self.folder))
            excess = sum(held for _, held, _ in files) + size - self.limit
            for _, held, path in files:
                if _is_abandoned(path) if path.suffix == PARTIAL else excess > 0:
                    path.unlink(missing_ok=True)
                    excess -= held
            os.truncate(copy.fileno(), size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else is in such a block: a file that changed its name while another process listed the folder would be
        counted under neither. Raises FileNotFoundError: the folder is gone.
        """
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Errors of the local disk, which name the folder, but for a file that is not there."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(refusal(error, self.folder)) from None


@contextmanager
def locked(file: BinaryIO, start: int, stop: int) -> Iterator[None]:
    """While the block lasts, nobody else who opened the file can lock these bytes. Systems other than Linux have no
    such lock: there nobody waits.
    """

    def lock(kind: int) -> None:
        if hasattr(fcntl, "F_OFD_SETLKW"):
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, stop - start, 0))

    lock(fcntl.F_WRLCK)
    try:
        yield
    finally:
        lock(fcntl.F_UNLCK)


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """When each file was last opened, its size, and its path."""
    for path in folder.iterdir():
        if path.name != LOCK:
            with suppress(FileNotFoundError):  # its maker has just failed, or somebody emptied the folder
                facts = path.stat()
                yield facts.st_atime_ns, facts.st_size, path


def _is_still(path: Path, file: BinaryIO) -> bool:
    """Whether the open file has that path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _is_abandoned(partial: Path) -> bool:
    """Whether the process that made the file was killed."""
    try:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True

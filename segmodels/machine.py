"""Refusals of the machine (files, disk space, memory, limits) in one sentence; a home folder where there is none."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from segmodels.errors import InputError, on_one_line, refusal

OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EFBIG)
"""Numbers of errors that are refusals whichever library hides them behind an error of its own."""

SAID_BY_LIBRARIES = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EROFS,
    "too many open files": errno.EMFILE,
    "file too large": errno.EFBIG,
}
"""Messages of SQLite, MLflow, Arrow, safetensors and torch, in lower case -> the number of the error behind it."""

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "failed to allocate",
)
GROUPS = {
    "sys/fs/cgroup": ("memory.max", "memory.current"),
    "sys/fs/cgroup/memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
"""Control groups of version 2 and 1 as a container sees its own: folder -> files of the limit and of what is used."""

LESS_MEMORY = (
    "lower batch_size, the size of crops or images, or the number of workers, or use a machine with more memory"
)


def refused_by_machine(error: BaseException) -> str:
    """The sentence for an error that is no bug: the operating system refuses a file, or disk space or memory ran out.
    Empty for any other error.
    """
    if isinstance(error, RecursionError):
        return "the recursion limit is reached: something in the input is nested too deeply, make it flat"
    for one in _chain(error):
        if isinstance(one, MemoryError) or any(text in str(one).lower() for text in OUT_OF_MEMORY):
            return f"memory ran out ({on_one_line(one, 100) or 'MemoryError'}): {LESS_MEMORY}"
        if isinstance(one, OSError) and (one.errno in OF_THE_MACHINE or (one is error and one.filename is not None)):
            return refusal(one)
        if "no usable temporary directory" in str(one).lower():
            return "no folder for temporary files can be written: free some space, or set TMPDIR to a folder that can"
        for text, number in SAID_BY_LIBRARIES.items():
            if text in str(one).lower():
                return refusal(OSError(number, text))
    return ""


def check_folder(path: Path, replaced: bool = False) -> None:
    """Check before the work begins that files can be written into a folder, which is there or will be made.

    Args:
        replaced: whether another folder takes its place as a whole.

    Raises:
        InputError: the operating system refuses it: a read-only or full disk, missing permissions, a file in its place,
            or a mount point in the place of a folder that is replaced.
    """
    folder = path.resolve()  # of a link the folder that it leads to
    _try_to_write(folder, path)
    if replaced:
        _try_to_write(folder.parent, path)
        if folder.is_mount():
            raise InputError(refusal(OSError(errno.EBUSY, ""), path))


def check_file(path: Path) -> None:
    """Check before the work begins that a file can be written to ``path``; a device or a pipe is taken as it is.

    Raises:
        InputError: as ``check_folder``, or a folder is in its place.
    """
    if path.is_dir():
        raise InputError(refusal(IsADirectoryError(errno.EISDIR, ""), path))
    if path.is_file() or not path.exists():
        _try_to_write(path.parent, path)


def _try_to_write(folder: Path, output: Path) -> None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(refusal(error, output)) from None


def check_temporary_space(needed: int, purpose: str) -> None:
    """Check that the folder of temporary files has ``needed`` bytes free.

    Raises:
        InputError: it has less.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free / 1e6:.0f} MB free, {purpose} needs {needed / 1e6:.0f} MB there: free space or set"
            " TMPDIR to another folder"
        )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that may still be taken: of the machine, with its swap space, and of the control group that a container's
    limit applies to. None where the system does not say.

    Args:
        root: folder with ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines)}
        free = [1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))]
    except (OSError, KeyError, ValueError, IndexError):
        return None
    for folder, names in GROUPS.items():
        with suppress(OSError, ValueError):  # no such group, or no limit ("max")
            limit, used = (int((root / folder / name).read_text()) for name in names)
            free.append(limit - used + _files_read(root / folder / "memory.stat"))
    return max(min(free), 0)


def _files_read(statistics: Path) -> int:
    """Bytes of a group that only keep files which were read, and are given up when memory is short."""
    lines = [line.split() for line in statistics.read_text().splitlines()]
    return max((int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file")), default=0)


def set_home() -> None:
    """Set ``HOME`` and ``USER`` for a user whom neither they nor the system's list of users know (as in containers that
    run under any number): packages ask for both when they are imported.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"segmodels-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # somebody else's
            folder = Path(tempfile.mkdtemp(prefix="segmodels-"))
        os.environ["HOME"] = str(folder)
        os.environ.setdefault("USER", str(os.getuid()))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from or while they were handled."""
    one: BaseException | None = error
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)

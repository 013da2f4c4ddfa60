"""Outputs that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.artifacts import check_replaceable
from segmodels.machine import OF_THE_MACHINE

LONGEST_ENDING = len(".nii.gz")


@contextmanager
def written_file(target: Path) -> Iterator[Path]:
    """A new path beside ``target`` to write to, in a folder that is there; the file takes the place of ``target`` when
    the block ends without an error, and is removed otherwise. A device or a pipe, such as /dev/stdout, takes what is
    written itself.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # with the ending, by which some writers choose the format; not longer than a name may be
    digest = hashlib.md5(os.fsencode(target.name), usedforsecurity=False).hexdigest()
    partial = target.with_name(f".partial.{digest}{target.name[-LONGEST_ENDING:]}")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        _name(error, target)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` to write into; it takes the place of ``target`` when the block ends without an
    error, and is removed otherwise. SIGTERM too removes it, unless the process handles that signal itself. Where
    ``target`` is a link to a folder, that folder is replaced.

    Raises:
        NotADirectoryError: ``target`` is a file.
    """
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
    target = target.resolve() if target.is_symlink() else target
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _removed_on_sigterm(partial):
            yield partial
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _name(error, target)
        raise
    before = target.with_name(f".{target.name}.before")  # removed at leisure: a half-removed folder is nobody's output
    shutil.rmtree(before, ignore_errors=True)
    if target.exists():
        target.rename(before)
    partial.replace(target)
    shutil.rmtree(before, ignore_errors=True)


@contextmanager
def written_output(step: str, output: Path) -> Iterator[Path]:
    """``written_folder`` for the output folder of a step; raises InputError as ``artifacts.check_replaceable``."""
    check_replaceable(step, output)
    with written_folder(output) as folder:
        yield folder


@contextmanager
def _removed_on_sigterm(folder: Path) -> Iterator[None]:
    def leave(number: int, _frame: object) -> None:
        # no exception: raised inside a library it could be swallowed, or leave a lock held
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _name(error: BaseException, target: Path) -> None:
    """Name the output in an error of a write: that of a full disk names no file, or the source of a copy."""
    if not isinstance(error, OSError) or error.errno not in OF_THE_MACHINE:
        return
    if error.filename is None or error.filename2 is not None:
        error.filename, error.filename2 = str(target), None

"""Downloads over HTTP: resumed where they stopped, verified, and whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from segmodels.addresses import check_address, without_credentials
from segmodels.errors import InputError, TransientError, refusal
from segmodels.transfer import Progress, Transfer

SECONDS_BETWEEN_LINES = 10.0


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring the file at ``url`` to ``path``. A file that is already there with the stated size and digests stays.

    The bytes arrive in ``PATH.partial``. A broken connection is resumed at once, an interrupted download by the next
    call: from any address if a digest is stated, else only if the server confirms that its file is still the same (by
    its ETag or time, kept in ``PATH.partial.version``). Of several processes one downloads, the others wait for it.

    Args:
        url: begins with http:// or https://; may hold a user and a password.
        sha256, md5: expected digests, hexadecimal; the first 8 digits of a SHA-256 or more suffice.
        size: expected number of bytes.
        progress: such as ``shown_progress`` gives.

    Raises:
        InputError: the address is wrong, the server refuses, the file there is another one than expected, or the disk
            is full.
        TransientError: no connection, or the server fails for now; what has arrived is kept.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise InputError(
            f"{without_credentials(url)!r} cannot be downloaded, expected an address that begins with https:// or"
            " http://: correct it"
        )
    check_address(url, "the address of a download")
    if path.is_file() and not _difference(path, size, sha256, md5):
        return path
    partial, version = (path.with_name(path.name + end) for end in (".partial", ".partial.version"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            if path.is_file() and not _difference(path, size, sha256, md5):  # another process was faster
                partial.unlink()
                return path
            transfer = Transfer(url, file, path, size, None if sha256 or md5 else version, progress)
            transfer.run()
            os.fsync(file.fileno())
            if difference := _difference(partial, size, sha256, md5):
                partial.unlink()
                version.unlink(missing_ok=True)
                found = f"the file from {without_credentials(url)} has {difference}, and was removed"
                if transfer.kept:
                    raise TransientError(
                        f"{found}; a part of it came from an earlier download, the next one starts over"
                    )
                raise InputError(f"{found}: check the address, the file there may have been replaced")
            partial.replace(path)
            version.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(refusal(error, path)) from None
    return path


@contextmanager
def shown_progress(description: str) -> Iterator[Progress]:
    """Show a download on stderr: a bar on a terminal, else a line every ten seconds."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
        speed = (bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
        with bars.Progress(*columns, *speed, console=console, transient=True) as display:
            task = display.add_task(description, total=None)
            yield lambda here, total: display.update(task, completed=here, total=total)
        return
    last = time.monotonic()

    def print_line(here: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            whole = f" of {total / 1e6:.0f}" if total else ""
            print(f"{description}: {here / 1e6:.0f}{whole} MB", file=sys.stderr, flush=True)

    yield print_line


@contextmanager
def _locked(partial: Path) -> Iterator[FileIO]:
    """``partial``, opened to append to it by this process alone; waits while another one has it."""
    while True:
        with partial.open("ab", buffering=0) as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            # the other process has renamed or removed it
            if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                continue
            try:
                yield file
            finally:
                if not os.fstat(file.fileno()).st_size:
                    partial.unlink(missing_ok=True)
            return


def _difference(path: Path, size: int | None, sha256: str | None, md5: str | None) -> str:
    """How a file differs from the expected size and digests, in words; empty if it does not."""
    here = path.stat().st_size
    if size is not None and here != size:
        return f"{here} bytes, expected {size}"
    for name, expected in (("SHA-256", sha256), ("MD5", md5)):
        if expected is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, name.replace("-", "").lower()).hexdigest()
            if not digest.startswith(expected.lower()):
                return f"the {name} {digest}, expected {expected}"
    return ""

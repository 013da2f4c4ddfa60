"""One process at a time works in a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segmodels.errors import TransientError

LOCK = ".lock"

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that cannot lock, such as some network mounts; nothing is checked there."""


@contextmanager
def locked_folder(folder: Path, work: str) -> Iterator[None]:
    """Hold ``folder`` (made if it is missing) for this process; the kernel frees it however the process ends.

    Args:
        work: what the process does there, for the others' message: "training".

    Raises:
        TransientError: another process holds it; says which, on which host, and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TransientError(
                f"{work} in {folder} is already running ({_holder(file.read())}): wait until it ends, or stop it with"
                " SIGTERM, then run this step again"
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": started}, file)
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has just begun
        return "by a process that has just started"

"""Errors that a caller can act on, apart from errors that are bugs."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class InputError(ValueError):
    """Wrong parameters or data: retrying does not help, changing the input does.

    The message is one sentence that names the thing, the value got, what was expected and what to do next.
    The command line prints it without a traceback and exits with code 2.
    """


class TransientError(RuntimeError):
    """Something outside failed for now (network, object store, server): retrying may help. Exit code 75."""


FREE_SPACE = "free some space and run the step again, nothing half-written is kept"
OTHER_PATH = "change its permissions or give another path"

ADVICE = {
    errno.EACCES: OTHER_PATH,
    errno.EPERM: OTHER_PATH,
    errno.EROFS: "give a path on a file system that can be written",
    errno.ENOTDIR: "a file has the name of a folder, move it away or give another path",
    errno.EEXIST: "move it away or give another path",
    errno.EISDIR: "expected a file, give its path",
    errno.EBUSY: "give a folder below that mount point",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "correct the symbolic link",
    errno.EMFILE: "raise the limit (ulimit -n) or lower the number of workers",
    errno.ENFILE: "close other programs",
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "raise the limit (ulimit -f) or use another file system",
    errno.EIO: "check the disk and restore the file",
}
"""What to do about a refusal of the operating system, by the number of the error."""


def refusal(error: OSError, path: str | Path | None = None) -> str:
    """The sentence for a refusal of the operating system: the path, the meaning of the error's number, what to do.

    Args:
        path: of the file, if not the one that the error names.
    """
    name = path if path is not None else error.filename
    name = os.fsdecode(name) if isinstance(name, bytes) else name
    number = error.errno or 0
    if number == errno.ENOSPC:
        return f"the disk is full{f' ({name})' if name else ''}: {FREE_SPACE}"
    meaning = os.strerror(number) if number else on_one_line(error)
    if name is None:
        return f"the operating system refuses ({meaning.lower()}): {ADVICE.get(number, 'check the machine')}"
    return f"{name} cannot be used ({meaning.lower()}): {ADVICE.get(number, 'check the path')}"


def on_one_line(error: BaseException, limit: int = 200) -> str:
    """The error's message without line breaks, cut to ``limit`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"

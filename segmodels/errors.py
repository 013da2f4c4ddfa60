"""Errors that a caller can act on, apart from errors that are bugs."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Wrong parameters or data: retrying does not help, changing the input does.

    The message is one sentence that names the thing, the value got, what was expected and what to do next.
    The command line prints it without a traceback and exits with code 2.
    """


class TransientError(RuntimeError):
    """Something outside failed for now (network, object store, server): retrying may help. Exit code 75."""


def nearest(kind: str, name: str, known: Iterable[str], place: str = "") -> InputError:
    """The error for an unknown name; it lists the nearest known names, or all of them.

    Args:
        place: where the name stands: " of model 'unet'".
    """
    return InputError(f"unknown {kind} {name!r}{place}: {did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str], before: str = "") -> str:
    """The end of a sentence about an unknown name: up to three known names that are meant by it, else all of them.

    Args:
        before: what precedes every name: the section of a key.
    """
    known = dict.fromkeys(known)
    likeness = {one: _likeness(name, one) for one in known}
    least = max(LEAST_LIKENESS, max(likeness.values(), default=0.0) - 0.16)
    near = sorted((one for one in known if likeness[one] >= least), key=lambda one: -likeness[one])[:3]
    if near:
        return f"did you mean {' or '.join(repr(before + one) for one in near)}?"
    return f"choose one of {', '.join(before + one for one in known)}"


def same_name(name: str, other: str) -> bool:
    """Whether two names differ in nothing but capitals and separators, and in ``+`` for ``plus``: UNet++ and
    unet_plus_plus.
    """
    return _letters(name) == _letters(other)


LEAST_LIKENESS = 0.65
"""Of a name that is suggested."""


def _likeness(name: str, known: str) -> float:
    """The share of letters that both have in the same order, 0 where the first letters differ; half more for the
    beginning of ``known`` (pspnet), some of its words or further ones (dice_loss), and initials (bce); 2 for the same
    name.
    """
    if same_name(name, known):
        return 2
    given, letters = _letters(name), _letters(known)
    own, words = _words(name), _words(known)
    ratio = difflib.SequenceMatcher(None, letters, given).ratio()
    some = {*own} <= {*words} or {*words} <= {*own}
    initials = given == "".join(word[0] for word in words) or letters == "".join(word[0] for word in own)
    if (len(given) > 2 and letters.startswith(given)) or (own and words and some) or initials:
        return 0.5 + ratio
    return ratio if given[:1] == letters[:1] else 0


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold().replace("+", " plus "))


def _letters(name: str) -> str:
    return "".join(_words(name))


FREE_SPACE = "free some space and run the step again, nothing half-written is kept"
OTHER_PATH = "change its permissions or give another path"

ADVICE = {
    errno.EACCES: OTHER_PATH,
    errno.EPERM: OTHER_PATH,
    errno.EROFS: "give a path on a file system that can be written",
    errno.ENOTDIR: "a file has the name of a folder, move it away or give another path",
    errno.EEXIST: "move it away or give another path",
    errno.EISDIR: "expected a file, give its path",
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

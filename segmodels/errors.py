"""Errors that a caller can act on, apart from errors that are bugs."""

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """Wrong parameters or data: retrying does not help, changing the input does.

    The message is one sentence that names the thing, the value got, what was expected and what to do next.
    The command line prints it without a traceback and exits with code 2.
    """


class TransientError(RuntimeError):
    """Something outside failed for now (network, object store, server): retrying may help. Exit code 75."""


def nearest(kind: str, name: str, known: Sequence[str]) -> InputError:
    """The error for a name that is not known: says which names are near, or all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose one of {', '.join(known)}"
    return InputError(f"unknown {kind} {name!r}: {hint}")

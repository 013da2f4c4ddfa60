"""Helpers for composing error messages."""

from __future__ import annotations

from collections.abc import Sequence


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """``a, b, c, d, e and 7 more``."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def as_clause(error: BaseException) -> str:
    """The error's message on one line, to stand within a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:1].lower() + text[1:]

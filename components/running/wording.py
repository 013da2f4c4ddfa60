"""Helpers for composing error messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """``a, b, c, d, e and 7 more``."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def first_few_alike(names: Sequence[str], limit: int = 5) -> str:
    """``first_few``, each name once. What all that are shown have in brackets, or behind a semicolon there, is said
    once: ``a, b and 7 more (12; ids one off)``, ``a (12), b (13) and 7 more; ids one off``.
    """
    pairs = [_without_brackets(name) for name in dict.fromkeys(names)]
    shown = {detail for _, detail in pairs[:limit]}
    causes = {detail.partition("; ")[2] for detail in shown}
    if len(pairs) > 1 and len(shown) == 1 and "" not in shown:
        return f"{first_few([name for name, _ in pairs], limit)} ({shown.pop()})"
    if len(pairs) > 1 and len(causes) == 1 and "" not in causes:
        few = first_few([f"{name} ({detail.partition('; ')[0]})" for name, detail in pairs], limit)
        return f"{few}; {causes.pop()}"
    return first_few(list(dict.fromkeys(names)), limit)


def _without_brackets(name: str) -> tuple[str, str]:
    """A name and what stands in brackets behind it."""
    depth, place = 0, len(name)
    while name.endswith(")") and place and (depth or place == len(name)):
        place -= 1
        depth += (name[place] == ")") - (name[place] == "(")
    return name[:place].rstrip(), name[place + 1 : -1]


def others_in(folder: Path, count: int) -> str:
    """``, the other 3 are in results``; empty where there are none."""
    return f", the other {count} are in {folder}" if count else ""


def as_clause(error: BaseException) -> str:
    """The error's message on one line, to stand within a sentence; a name such as MLflow or S3 keeps its capitals."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2].isspace() else text

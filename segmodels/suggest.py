"""Sentences about unknown names: which known names may be meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from segmodels.errors import InputError

LEAST_LIKENESS = 0.65
"""Of a name that is suggested."""


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
    if near := near_names(name, known):
        return f"did you mean {' or '.join(repr(before + one) for one in near)}?"
    return f"choose one of {', '.join(before + one for one in known)}"


def near_names(name: str, known: Iterable[str], least: float = LEAST_LIKENESS) -> list[str]:
    """Up to three known names that may be meant by ``name``, the likeliest first.

    Args:
        least: likeness that they have; from 1 on they share words with the name, not letters alone.
    """
    likeness = {one: _likeness(name, one) for one in known}
    least = max(least, max(likeness.values(), default=0.0) - 0.16)
    return sorted((one for one in likeness if likeness[one] >= least), key=lambda one: -likeness[one])[:3]


def same_name(name: str, other: str) -> bool:
    """Whether two names differ in nothing but capitals and separators, and in ``+`` for ``plus``: UNet++ and
    unet_plus_plus.
    """
    return _letters(name) == _letters(other)


def _likeness(name: str, known: str) -> float:
    """The share of letters that both have in the same order, 0 where the first letters differ; half more for the
    beginning of ``known`` (pspnet), some of its words or further ones (dice_loss), their beginnings, whatever the
    numbers (vit_b16 for vit_base), and initials (bce); 2 for the same name.
    """
    if same_name(name, known):
        return 2
    given, letters = _letters(name), _letters(known)
    own, words = _words(name), _words(known)
    ratio = difflib.SequenceMatcher(None, letters, given).ratio()
    some = {*own} <= {*words} or {*words} <= {*own}
    initials = given == "".join(word[0] for word in words) or letters == "".join(word[0] for word in own)
    begins = (len(given) > 2 and letters.startswith(given)) or _shortened(name, known)
    if begins or (own and words and some) or initials:
        return 0.5 + ratio
    return ratio if given[:1] == letters[:1] else 0


def _shortened(name: str, known: str) -> bool:
    """Whether every word of ``name``, one of three letters among them, begins one of ``known``; digits part words."""
    own, words = ([word for text in _words(one) for word in re.findall(r"\D+", text)] for one in (name, known))
    return max(map(len, own), default=0) > 2 and all(any(word.startswith(one) for word in words) for one in own)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold().replace("+", " plus "))


def _letters(name: str) -> str:
    return "".join(_words(name))

"""Sizes of images and maps in messages, and the check that two of them are equal."""

from __future__ import annotations

from collections.abc import Iterable

from segmodels.errors import InputError


def size_in_words(size: Iterable[int]) -> str:
    """``WIDTHxHEIGHT``, or ``WIDTHxHEIGHTxDEPTH``.

    Args:
        size: ``(H, W)`` or ``(D, H, W)``.
    """
    return "x".join(map(str, reversed(tuple(size))))


def require_one_size(file: str | None, size: tuple[int, ...], other: str, expected: tuple[int, ...]) -> None:
    """Check that what ``file`` holds has the size ``(*spatial)`` of what ``other`` holds.

    Raises:
        InputError: it has not; names both files and sizes.
    """
    if size != expected:
        raise InputError(
            f"{file} is {size_in_words(size)} but {other} is {size_in_words(expected)}, expected one size: replace one"
            " of them"
        )

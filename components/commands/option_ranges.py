"""Ranges of the options that people give."""

from __future__ import annotations

from typing import Any

from segmodels.errors import InputError


def check_options(**options: tuple[Any, bool, str]) -> None:
    """Check options by name before the work begins: each has its value, whether it is right, and what is expected.

    Raises:
        InputError: the first one that is wrong.
    """
    for name, (value, right, expected) in options.items():
        if not right:
            raise InputError(f"--{name.replace('_', '-')} is {value}, expected {expected}")

"""Range checks for settings: frozen dataclasses call ``check`` in ``__post_init__``.

>>> check(self, "sliding window", size=each(whole_number(1)), overlap=number(0, below=1), weighting=one_of(Weighting))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from segmodels.errors import InputError


class Problem(NamedTuple):
    """A setting out of range: ``field`` (``weights.0`` for an entry of a list), its value, what was expected."""

    field: str
    value: Any
    expected: str


class SettingsError(InputError):
    """Settings out of range; the message is a sentence for each.

    Attributes:
        problems: all of them, for a caller who knows where the settings were written.
    """

    def __init__(self, owner: str, problems: list[Problem]) -> None:
        self.problems = problems
        whose = f" of the {owner}" if owner else ""
        super().__init__(
            "; ".join(f"{field}{whose} is {shown(value)}, expected {expected}" for field, value, expected in problems)
        )


@dataclass(frozen=True)
class Expectation:
    """What a setting must be: ``holds`` tests a value, ``text`` follows the word *expected*."""

    text: str
    holds: Callable[[Any], bool]
    entries: bool = False  # the value is a list, and each entry is tested
    optional: bool = False  # None is allowed in place of the list


def check(settings: object, owner: str = "", /, **expected: Expectation) -> None:
    """Compare fields of ``settings`` with what is expected of them.

    Args:
        owner: whose fields they are, for the message: "dense CRF".

    Raises:
        SettingsError: names every field that is out of range.
    """
    problems = []
    for name, expectation in expected.items():
        value = getattr(settings, name)
        if not expectation.entries:
            problems += [] if expectation.holds(value) else [Problem(name, value, expectation.text)]
        elif value is None and expectation.optional:
            continue
        elif not isinstance(value, tuple | list):
            problems.append(Problem(name, value, f"a list, each entry {expectation.text}"))
        elif not value:
            problems.append(Problem(name, value, f"at least one entry, each {expectation.text}"))
        else:
            wrong = ((place, one) for place, one in enumerate(value) if not expectation.holds(one))
            problems += [Problem(f"{name}.{place}", one, expectation.text) for place, one in wrong]
    if problems:
        raise SettingsError(owner, problems)


def number(
    low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, below: float = math.inf
) -> Expectation:
    """A finite number, ``low`` <= number <= ``high``, ``above`` < number < ``below``."""
    return _in_range("a number", (int, float), low, high, above, below)


def whole_number(low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> Expectation:
    """An int in a range; True and False are none."""
    return _in_range("a whole number", (int,), low, high, above, math.inf)


def one_of(choices: Any) -> Expectation:
    """One of the strings of a ``Literal``."""
    names = get_args(choices)
    return Expectation(f"one of {', '.join(names)}", lambda value: value in names)


def each(expectation: Expectation) -> Expectation:
    """A list that is not empty and whose entries are as expected."""
    return Expectation(expectation.text, expectation.holds, entries=True)


def optional(expectation: Expectation) -> Expectation:
    """None, or as expected."""
    if expectation.entries:
        return replace(expectation, optional=True)
    return Expectation(f"{expectation.text}, or null", lambda value: value is None or expectation.holds(value))


def shown(value: Any, limit: int = 100) -> str:
    """A value as users write it (lists for tuples, true for True), cut to ``limit`` characters."""
    if isinstance(value, str | bytes):
        text = repr(value[: limit + 1])
    elif isinstance(value, tuple | list):
        text = f"[{', '.join(shown(one, limit) for one in value[: limit // 3 + 1])}]"
    elif isinstance(value, bool | None):
        text = {True: "true", False: "false", None: "null"}[value]
    else:
        try:
            text = repr(value)
        except ValueError:  # a whole number of more than 4300 digits
            text = f"a whole number of {value.bit_length()} bits"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _in_range(kind: str, types: tuple[type, ...], low: float, high: float, above: float, below: float) -> Expectation:
    bounds = [(f"of at least {low:g}", low > -math.inf), (f"greater than {above:g}", above > -math.inf)]
    bounds += [(f"at most {high:g}", high < math.inf), (f"less than {below:g}", below < math.inf)]
    text = (
        f"from {low:g} to {high:g}"
        if -math.inf < low and high < math.inf
        else " and ".join(b for b, is_set in bounds if is_set)
    )

    def holds(value: Any) -> bool:
        if (
            not isinstance(value, (int, float))
            or not isinstance(value, types)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            return False
        return low <= value <= high and above < value < below

    return Expectation(f"{kind} {text}".strip(), holds)

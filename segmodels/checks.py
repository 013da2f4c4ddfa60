"""Range checks for settings: frozen dataclasses call ``check`` in ``__post_init__``.

>>> check(self, "sliding window", size=each(whole_number(1)), overlap=number(0, below=1), weighting=one_of(Weighting))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from segmodels.errors import InputError

HIGHEST_SEED = 2**32 - 1
"""Highest seed that every generator of random numbers takes."""
MOST_WORKERS = 256
"""Processes that a step may start."""
LONGEST_SIDE = 2**15 - 1
"""Pixels of a side that OpenCV can resize."""


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


def or_word(word: str, expectation: Expectation) -> Expectation:
    """A word, such as auto, or as expected."""
    return Expectation(f"{expectation.text}, or {word}", lambda value: value == word or expectation.holds(value))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML or JSON has the type that an argument is annotated with: a whole number for
    ``float``, a list for ``Sequence`` and ``tuple``; True and False are no numbers.
    """
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin is Annotated:
        return fits(value, inside[0])
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if hint in (int, float):
        return isinstance(value, Real if hint is float else Integral) and not isinstance(value, bool)
    if hint in (None, NoneType):
        return value is None
    if hint is Path:
        return isinstance(value, str | Path)
    if not isinstance(origin, type):
        return not isinstance(hint, type) or isinstance(value, hint)
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(one, inside[1]) for one in value.values())
    if issubclass(origin, tuple) and inside[-1] is not Ellipsis:
        return isinstance(value, list | tuple) and len(value) == len(inside) and all(map(fits, value, inside))
    if issubclass(origin, Iterable):
        return isinstance(value, list | tuple) and all(fits(one, inside[0]) for one in value)
    return True


def type_name(hint: Any) -> str:
    """An annotation in the words of params.yaml: ``a list of whole numbers or null``."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_name(one) for one in inside))
    if origin is Literal:
        return " or ".join(map(shown, inside))
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "text",
        NoneType: "null",
    }
    if hint in names:
        return names[hint]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "an object"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list of {type_name(inside[0]).removeprefix('a ')}s" if inside else "a list"
    return getattr(hint, "__name__", str(hint))


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
    bounds = [(f"of at least {low:.10g}", low > -math.inf), (f"greater than {above:.10g}", above > -math.inf)]
    bounds += [(f"at most {high:.10g}", high < math.inf), (f"less than {below:.10g}", below < math.inf)]
    text = (
        f"from {low:.10g} to {high:.10g}"
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

"""Turns the data of files and command lines into dataclasses or pydantic models; every mistake becomes a sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from segmodels.checks import SettingsError, shown
from segmodels.errors import InputError
from segmodels.files import reason
from segmodels.suggest import did_you_mean

CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

MOST_NAMED = 10
"""Mistakes that one message names."""

MAPPING = "a mapping"
WORDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": MAPPING,
    "dataclass_type": MAPPING,
    "model_type": MAPPING,
}
"""Pydantic's kinds of problems -> what is expected, as docs/parameters.md says it."""

Schema = TypeVar("Schema")


class Params(BaseModel):
    """Base of models that need pydantic's patterns and aliases: profiles and settings of a TrainJob."""

    model_config = CONFIG


def checked(schema: type[Schema], data: Any, origin: str = "parameters", section: str = "") -> Schema:
    """Check ``data``, which was read from YAML or JSON, and make an instance of ``schema`` of it.

    Args:
        origin: where the data comes from, for the message: a file, an option.
        section: key of ``data`` in the file, for the message.

    Raises:
        InputError: the data does not fit, or has a number that is not finite; names every such key, up to ten.
    """
    try:
        text = json.dumps({"value": data}, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{origin} cannot be written as JSON ({reason(error)}): use text as keys") from None
    check_finite(data, origin, section)
    try:
        return _validator(cast("Hashable", schema)).validate_json(text).value
    except ValidationError as error:
        sentences = list(_sentences(schema, json.loads(text)["value"], origin, section, error))
        more = [f"and {len(sentences) - MOST_NAMED} more"] if len(sentences) > MOST_NAMED else []
        raise InputError("; ".join([*sentences[:MOST_NAMED], *more])) from None


def check_finite(data: Any, origin: str, section: str = "") -> None:
    """Raise InputError for the numbers in ``data`` that are NaN or infinite; arguments as of ``checked``."""
    if infinite := list(_not_finite(data, section))[:MOST_NAMED]:
        raise InputError("; ".join(f"{origin}: {key} is {value}, expected a finite number" for key, value in infinite))


def fields(schema: Any) -> dict[str, Any]:
    """Keys of a dataclass or pydantic model -> what they take; {} for any other annotation, the member for a union."""
    for one in (schema, *typing.get_args(schema)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return {field.alias or name: field.annotation for name, field in one.model_fields.items()}
        if dataclasses.is_dataclass(one):
            hints = typing.get_type_hints(one)
            return {field.name: hints[field.name] for field in dataclasses.fields(one)}
    return {}


@lru_cache(maxsize=64)
def _validator(schema: Any) -> TypeAdapter[Any]:
    """JSON in strict mode: lists for tuples and whole numbers for floats, nothing else is converted."""
    holder = dataclasses.make_dataclass("Holder", [("value", schema)], namespace={"__pydantic_config__": CONFIG})
    return TypeAdapter(holder)


def _not_finite(data: Any, key: str) -> Iterator[tuple[str, float]]:
    """Keys and values of the numbers that are NaN or infinite, wherever they are in the data."""
    if isinstance(data, float) and not math.isfinite(data):
        yield key or "the value", data
    elif isinstance(data, Mapping | list | tuple):
        for name, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _not_finite(value, f"{key}.{name}" if key else str(name))


def _sentences(schema: type, data: Any, origin: str, section: str, error: ValidationError) -> Iterator[str]:
    """Pydantic's problems in words: the key, the value got, what is expected."""
    by_key: dict[tuple[str, str], list[str]] = {}  # the members of a union fail together
    for problem in error.errors():
        path = _path(data, problem["loc"][1:])
        where = ".".join(map(str, [*([section] if section else []), *path]))
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield f"{origin}: {_unknown(schema, where, path)}"
        elif problem["type"] in ("missing", "missing_argument"):
            yield f"{origin}: {where} is missing"
        elif problem["type"] == "value_error":
            yield from _own(f"{origin}: {where}" if where else origin, problem["ctx"]["error"])
        else:
            words = _expected(problem["type"], problem["input"], problem["msg"])
            words += _inside(schema, path) if words == MAPPING else ""
            by_key.setdefault((where or "the file", shown(problem["input"])), []).append(words)
    for (where, value), messages in by_key.items():
        yield f"{origin}: {where} is {value}, expected {' or '.join(dict.fromkeys(messages))}"


def _expected(kind: str, value: Any, message: str) -> str:
    """What is expected in place of ``value``, by pydantic's kind of problem; its message where that says it."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "text: put it in quotes"
    if kind == "string_type" and isinstance(value, Mapping) and "name" in value:
        return f"the name alone, {shown(value['name'])}: the options of a name have a key of their own beside it"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str) and _is_scalar(value):
        return f"{WORDS[kind]}: leave out the quotes"
    message = message.removeprefix("Input should be ")
    return WORDS.get(kind, message[0].lower() + message[1:])


def _is_scalar(text: str) -> bool:
    """Whether text in quotes would be a number or a truth value without them."""
    try:
        return isinstance(json.loads(text), bool | int | float)
    except ValueError:
        return False


def _inside(schema: Any, path: Sequence[int | str]) -> str:
    """What a mapping at ``path`` holds."""
    for part in path:
        schema = fields(schema).get(str(part))
    keys = list(fields(schema))
    return f" with keys such as {', '.join(keys[:3])}" if keys else ", such as {name: value}"


def _own(where: str, error: ValueError) -> Iterator[str]:
    """Sentences of the schema's own checks (``__post_init__``, validators)."""
    if isinstance(error, SettingsError):
        for field, value, expected in error.problems:
            yield f"{where}.{field} is {shown(value)}, expected {expected}"
    else:
        yield f"{where}: {error}"


def _path(data: Any, location: Sequence[int | str]) -> list[int | str]:
    """Pydantic's location without the names of union members and types that it puts between the keys."""
    path: list[int | str] = []
    for place, part in enumerate(location):
        keys = range(len(data)) if isinstance(data, list) else data if isinstance(data, Mapping) else ()
        inside = part in keys
        missing = isinstance(data, Mapping) or (isinstance(data, list) and isinstance(part, int))
        if inside or (place == len(location) - 1 and missing):
            path.append(part)
        if inside:
            data = data[part]
    return path


def _unknown(schema: Any, where: str, path: Sequence[int | str]) -> str:
    for part in path[:-1]:
        schema = fields(schema).get(str(part))
    return f"unknown key {where!r}, {did_you_mean(str(path[-1]), fields(schema))}"

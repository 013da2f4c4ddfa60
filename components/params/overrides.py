"""Parameters from the command line: JSON in place of params.yaml, and single values on top of either.

On a cluster there is no params.yaml: a step gets its parameters as JSON (``--params-json '{"train": {...}}'``) and the
values that a run changes one by one (``--set train.epochs=40``).
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from components.params.checking import fields
from components.params.reading import checked_params, read_params
from components.params.schema import EvaluateParams, PipelineParams
from segmodels.checks import shown
from segmodels.errors import InputError
from segmodels.files import parse_json
from segmodels.suggest import did_you_mean


def assembled_params(
    source: Path | Sequence[str], assignments: Sequence[str] = (), *, names: bool = True, origin: str = ""
) -> PipelineParams:
    """All parameters, checked.

    Args:
        source: params.yaml, or JSON objects with sections of it in its place.
        assignments: ``section.key=value``, the last one of a key wins. The value is text, or JSON where the key takes
            no text; nothing after ``=`` means null where null is allowed.
        names: as of ``checked_params``.
        origin: where they come from, for messages; empty for the options --params or --params-json, and --set.

    Raises:
        InputError: no JSON, an unknown key, or a value that does not fit.
    """
    data = read_params(source) or {} if isinstance(source, Path) else _merged(source)
    given = str(source) if isinstance(source, Path) else "--params-json"
    if not isinstance(data, dict):
        return checked_params(data, origin or given, names=names)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: expected section.key=value, for example train.epochs=40")
        _assign(data, key, text)
    return checked_params(data, origin or (f"{given} with --set" if assignments else given), names=names)


def _merged(fragments: Sequence[str]) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for fragment in fragments:
        try:
            sections |= parse_json(fragment, {})
        except ValueError as error:
            raise InputError(
                f"--params-json {shown(fragment, 60)} cannot be understood ({error}): expected an object with sections"
                ' of params.yaml, for example {"train": {"epochs": 40}}'
            ) from None
    return sections


def _assign(data: dict[str, Any], key: str, text: str) -> None:
    """Put the value into ``data``, as the type that the key takes."""
    *sections, name = key.split(".")
    annotation: Any = PipelineParams
    for position, part in enumerate([*sections, name]):
        known = _keys(annotation, part)
        if not known:
            if not _is_mapping(annotation):
                raise InputError(
                    f"--set {key}: {'.'.join(sections[:position])} is a single value, it has no key {part!r}"
                )
            annotation = Any  # inside a free mapping, such as train.options
            break
        if part not in known:
            before = "".join(f"{section}." for section in sections[:position])
            raise InputError(f"unknown parameter {key!r}: {did_you_mean(part, known, before)}")
        annotation = known[part]
    target = data
    for position, part in enumerate(sections, start=1):
        inside = target.get(part) or {}
        if not isinstance(inside, Mapping):
            whole = ".".join(sections[:position])
            raise InputError(f"--set {key}: {whole} is {shown(inside)} and has no keys: set the whole of {whole}")
        target[part] = dict(inside)
        target = target[part]
    target[name] = _value(annotation, text)


def _keys(annotation: Any, part: str) -> dict[str, Any]:
    """Keys of a section and what they take; for ``evaluate`` the tasks' settings beside its own."""
    known = fields(annotation)
    if annotation is EvaluateParams and part not in known.keys() - {"settings"}:
        from components.params.tasks import settings_classes

        del known["settings"]
        for schema in settings_classes().values():
            known = fields(schema) | known
    return known


def _is_mapping(annotation: Any) -> bool:
    members = (annotation, *typing.get_args(annotation))
    return any(isinstance(origin := typing.get_origin(one), type) and issubclass(origin, Mapping) for one in members)


def _value(annotation: Any, text: str) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    if text == "" and _takes(adapter, None):
        return None
    if annotation is not Any and _takes(adapter, text):
        return adapter.validate_python(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # refused, or taken in a free mapping, by the schema


def _takes(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True

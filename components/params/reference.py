"""The parameter reference, docs/parameters.md: every key of params.yaml with its type, default and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from components.params.checking import fields
from components.params.schema import PipelineParams
from components.params.tasks import settings_classes

NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any value"}


def parameters_page() -> str:
    """Sections of params.yaml as Markdown, a table each."""
    sections = [_section(name, schema) for name, schema in fields(PipelineParams).items()]
    place = next(index for index, section in enumerate(sections) if section.startswith("## evaluate"))
    sections[place] += "".join(
        f"\n\nSettings of the task {task}, keys of `evaluate` as well:\n\n{_table(schema)}"
        for task, schema in settings_classes().items()
    )
    return "\n\n".join(sections)


def descriptions(schema: type) -> dict[str, str]:
    """Field -> its text in the section ``Attributes:`` of the class's docstring, or of the classes it inherits from."""
    found: dict[str, str] = {}
    for one in reversed(schema.__mro__):
        _, _, attributes = ((one.__doc__ and inspect.getdoc(one)) or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*?)(?=^    \w+: |^\S|\Z)", attributes, flags=re.M | re.S):
            found[name] = " ".join(text.split())
    return found


def _section(name: str, schema: type) -> str:
    summary = (inspect.getdoc(schema) or "").partition("\n\n")[0]
    return f"## {name}\n\n{' '.join(summary.split())}\n\n{_table(schema)}"


def _table(schema: type) -> str:
    header = "| key | value | default | description |\n| --- | --- | --- | --- |\n"
    return header + "\n".join(
        f"| `{key}` | {kind} | {default} | {text} |" for key, kind, default, text in _rows(schema)
    )


def _rows(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    texts = descriptions(schema)
    for field in dataclasses.fields(schema):
        annotation = fields(schema)[field.name]
        if schema.__name__ == "EvaluateParams" and field.name == "settings":
            continue  # the tasks' keys
        nested = next(
            (one for one in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(one)), None
        )
        text = _text(texts[field.name])
        if nested is None:
            yield prefix + field.name, _kind(annotation), f"`{_default(field)}`", text
        else:
            optional = type(None) in typing.get_args(annotation)
            yield prefix + field.name, "section" + " or null" * optional, "`null`" if optional else "", text
            yield from _rows(typing.cast(type, nested), f"{prefix}{field.name}.")


def _text(description: str) -> str:
    """A description of a docstring as Markdown, in the words of YAML."""
    text = description.replace("|", "\\|").replace("``", "`").replace("None", "`null`")
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def _kind(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if annotation in NAMES:
        return NAMES[annotation]
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping | dict):
        return "mapping"
    if origin is tuple:
        length = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"list of {length}{NAMES[arguments[0]]}s"
    return " or ".join(_kind(one) for one in arguments)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return json.dumps(field.default_factory())
    if field.default is dataclasses.MISSING:
        return "required"
    return field.default if isinstance(field.default, str) else json.dumps(field.default)

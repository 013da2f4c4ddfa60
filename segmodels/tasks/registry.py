"""Tasks by name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.registry import Registry
from segmodels.suggest import did_you_mean
from segmodels.tasks.base import Task

TASKS: Registry[Task, None] = Registry("task", "segmodels.tasks", "train.task takes")

FIRST = "semantic"
"""The task of bundles that name none: those of versions before there were others."""

TaskType = TypeVar("TaskType", bound=type[Task])
Settings = TypeVar("Settings")


def register_task(task: TaskType) -> TaskType:
    """Decorator: makes a task known by its ``name``."""
    return TASKS.register(task.name, None)(task)


def task_class(name: str) -> type[Task]:
    """The task of that name.

    Raises:
        InputError: unknown name; says which names are near.
    """
    return cast("type[Task]", TASKS[name].build)


def create_task(name: str, labels: LabelMap, settings: Any = None) -> Task:
    """A task for the classes of ``labels``.

    Args:
        settings: how it predicts: the task's ``Settings``, or a mapping of its fields, as ``settings_to_dict`` made it;
            None takes the defaults.

    Raises:
        InputError: unknown name or setting, or a setting that is out of range.
    """
    task = task_class(name)
    if isinstance(settings, Mapping):
        settings = settings_from_dict(task.Settings, settings)
    return task(labels, settings)


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """The settings as JSON holds them; ``settings_from_dict`` is the inverse."""
    return cast("dict[str, Any]", _plain(dataclasses.asdict(settings)))


def settings_from_dict(schema: type[Settings], data: Mapping[str, Any]) -> Settings:
    """Build a dataclass from a mapping of its fields; dataclasses within it are mappings, too.

    Raises:
        InputError: a field that the dataclass does not have, or a value it refuses.
    """
    hints = typing.get_type_hints(schema)
    known = {field.name for field in dataclasses.fields(cast(Any, schema))}
    for name in data:
        if name not in known:
            raise InputError(f"setting {name!r} is unknown to {schema.__name__}, {did_you_mean(name, sorted(known))}")
    return schema(**{name: _typed(hints[name], value) for name, value in data.items()})


def _typed(hint: Any, value: Any) -> Any:
    """``value`` from JSON as the hint wants it: dataclasses for mappings, tuples for lists."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    nested = next((choice for choice in choices if dataclasses.is_dataclass(choice)), None)
    if nested is not None and isinstance(value, Mapping):
        return settings_from_dict(cast("type[Any]", nested), value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

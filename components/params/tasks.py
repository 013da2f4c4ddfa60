"""Facts of the tasks that parameters need: settings in section ``evaluate``, names of scores. It imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.params.checking import checked, fields
from components.params.schema import EvaluateParams
from segmodels.errors import InputError, did_you_mean, nearest


def settings_classes() -> dict[str, type]:
    """Task -> dataclass of its settings."""
    from segmodels.tasks.registry import TASKS, task_class

    return {name: task_class(name).Settings for name in TASKS.names()}


def check_settings(settings: Mapping[str, Any], task: str | None, origin: str) -> None:
    """Check the settings of ``task``; while the dataset has yet to decide it, of the tasks that have such settings.

    Raises:
        InputError: no task has a setting of that name, or a value does not fit.
    """
    classes = settings_classes()
    tried = [classes[task]] if task in classes else list(classes.values())
    errors = []
    for key in settings:
        if not any(key in fields(one) for one in tried):
            raise _unknown(key, tried, origin)
    for one in tried:
        if set(settings) <= set(fields(one)):
            try:
                checked(one, settings, origin, "evaluate")
            except InputError as error:
                errors.append(error)
            else:
                return
    if errors:
        raise errors[0]
    raise InputError(f"{origin}: no task has all of evaluate.{', evaluate.'.join(settings)}: leave out some")


def check_names(task: str | None, metric: str | None, origin: str) -> None:
    """Check ``train.task`` and ``register.metric`` against the registry of tasks.

    Raises:
        InputError: no such task, or no such score of the task, of any task while the dataset has yet to decide it.
    """
    from segmodels.labels import LabelMap
    from segmodels.tasks.registry import TASKS, create_task

    try:
        tasks = [TASKS[task].name] if task is not None else TASKS.names()
    except InputError as error:
        raise InputError(f"{origin}: train.task: {error}") from None
    if metric is not None:
        labels = LabelMap(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1}, things=frozenset({1}))
        scores = [score for one in tasks for score in create_task(one, labels).evaluator().scores().items()]
        known = [name for name, value in scores if isinstance(value, float)]  # not the counts of images and pixels
        if metric not in known:
            raise InputError(f"{origin}: register.metric: {nearest('score', metric, known)}")


def task_settings(params: EvaluateParams, schema: type) -> Any:
    """The settings in ``params`` as the dataclass ``schema``, the ``Settings`` of the model's task.

    Raises:
        InputError: the task has no setting of that name, or a value does not fit.
    """
    for key in params.settings:
        if key not in fields(schema):
            raise _unknown(key, [schema], "the model's task")
    return checked(schema, params.settings, "parameters", "evaluate")


def _unknown(key: str, classes: list[type], origin: str) -> InputError:
    known = [name for one in (EvaluateParams, *classes) for name in fields(one) if name != "settings"]
    return InputError(f"{origin}: unknown key 'evaluate.{key}', {did_you_mean(key, known)}")

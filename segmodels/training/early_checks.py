"""What can be wrong with the settings of a training before there is data: names and options that nothing has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.models.registry import check_model_options, known_arguments, model_entry, model_options
from segmodels.suggest import near_names
from segmodels.tasks.registry import TASKS, task_class
from segmodels.training.criterion import create_criterion
from segmodels.training.settings import TrainSettings

ANY_LABELS = LabelMap(("stuff", "thing"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1}, things=frozenset({1}))
"""Classes for what every task has, whatever the dataset."""


def check_names(settings: TrainSettings) -> tuple[str, ...]:
    """Check the names of model, task, losses, encoder and published weights and their options, as ``create_recipe``
    does; values that only building a model shows to be impossible, and what depends on the dataset, are left to it.

    Returns:
        ``possible_tasks``.

    Raises:
        InputError: a name or option that does not exist, or a value of another type than the option has.
    """
    tasks = possible_tasks(settings)
    create_criterion(settings, model_entry(settings.model).card)
    arguments = [known_arguments(settings.model, task_class(task).model_arguments(ANY_LABELS)) for task in tasks]
    check_reserved(settings.options, set.intersection(*map(set, arguments)))
    try:
        check_model_options(settings.model, settings.options)
    except InputError as error:
        known = model_options(settings.model)
        if all(option in known or near_names(option, known) for option in settings.options):
            raise
        raise InputError(f"{error}; if train.options is of another model, {{}} gives this one its defaults") from None
    return tasks


def possible_tasks(settings: TrainSettings) -> tuple[str, ...]:
    """The tasks that can be trained: ``settings.task``, or those of the model, the default first.

    Raises:
        InputError: unknown model or task, or the model does not learn that task.
    """
    tasks, name = model_entry(settings.model).card.tasks, settings.task
    if name is None:
        return tasks
    if TASKS[name].name not in tasks:
        raise InputError(
            f"train.task is {name!r}, but model {settings.model!r} learns {', '.join(tasks)}: choose one of them, or"
            " another model"
        )
    return (name,)


def check_reserved(options: Mapping[str, Any], arguments: Collection[str]) -> None:
    """Raise InputError for options of a model that are its name or among the ``arguments`` that its task gives it."""
    if reserved := sorted(options.keys() & {"name", *arguments}):
        raise InputError(
            f"train.options has {', '.join(reserved)}, which follows from train.model and the dataset: leave it out"
        )

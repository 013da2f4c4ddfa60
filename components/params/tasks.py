"""What parameters name, against the library's registries: models, losses, layouts, tasks, their options, settings in
section ``evaluate`` and scores. It imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.artifacts import DATASET, MANIFEST
from components.params.checking import checked, fields
from components.params.schema import EvaluateParams, TrainParams
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.suggest import did_you_mean, nearest


def settings_classes() -> dict[str, type]:
    """Task -> dataclass of its settings."""
    from segmodels.tasks.registry import TASKS, task_class

    return {name: task_class(name).Settings for name in TASKS.names()}


def trained_tasks(params: TrainParams, origin: str) -> tuple[str, ...]:
    """The tasks that ``params`` may train: one, or several while the dataset has yet to decide it.

    Raises:
        InputError: no such model, loss, encoder, task or option, see ``segmodels.training.early_checks``.
    """
    from segmodels.training.early_checks import check_names

    with _said_of(f"{origin}, section train"):
        return check_names(params)


def check_annotations(params: TrainParams, dataset: Path) -> None:
    """Raise InputError where ``params`` trains a model that learns from annotations, or from objects, and the dataset,
    which ingest wrote, has none: hours before the training would.
    """
    labels = LabelMap.from_dict(DATASET.read(dataset)["labels"])
    annotated = any(MANIFEST.read(dataset).column("files").to_pylist())
    if not annotated or not labels.things:
        from segmodels.training.early_checks import check_labelled, supported_task

        if not annotated:
            check_labelled(params)
        supported_task(params, labels, objects=False)


def check_layout(name: str, origin: str) -> None:
    """Raise InputError where ``ingest.layout`` is neither auto nor a layout."""
    from segmodels.data.layouts import AUTO, LAYOUTS

    with _said_of(f"{origin}: ingest.layout"):
        if name != AUTO and name not in LAYOUTS:
            raise LAYOUTS.unknown(name)


def check_settings(settings: Mapping[str, Any], tasks: Collection[str] | None, origin: str) -> None:
    """Check the settings of one of the ``tasks``; of any task for None.

    Raises:
        InputError: no such task has a setting of that name, or a value does not fit.
    """
    tried = [schema for name, schema in settings_classes().items() if tasks is None or name in tasks]
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


def check_metric(metric: str | None, tasks: Collection[str] | None, origin: str) -> None:
    """Raise InputError where ``register.metric`` is no score of one of the ``tasks``, of any task for None."""
    if metric is None:
        return
    from segmodels.tasks.registry import TASKS, create_task
    from segmodels.training.early_checks import ANY_LABELS

    chosen = TASKS.names() if tasks is None else tasks
    scores = [score for one in chosen for score in create_task(one, ANY_LABELS).evaluator().scores().items()]
    known = [name for name, value in scores if isinstance(value, float)]  # not the counts of images and pixels
    with _said_of(f"{origin}: register.metric"):
        if metric not in known:
            raise nearest("score", metric, known)


def task_settings(params: EvaluateParams, schema: type) -> Any:
    """The settings in ``params`` as the dataclass ``schema``, the ``Settings`` of the model's task.

    Raises:
        InputError: the task has no setting of that name, or a value does not fit.
    """
    for key in params.settings:
        if key not in fields(schema):
            raise _unknown(key, [schema], "the model's task")
    return checked(schema, params.settings, "parameters", "evaluate")


@contextmanager
def _said_of(place: str) -> Iterator[None]:
    """Put the place before the sentences of the library."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _unknown(key: str, classes: list[type], origin: str) -> InputError:
    known = [name for one in (EvaluateParams, *classes) for name in fields(one) if name != "settings"]
    return InputError(f"{origin}: unknown key 'evaluate.{key}', {did_you_mean(key, known)}")

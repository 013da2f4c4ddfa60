"""What can be wrong with the settings of a training before there is data: names and options that nothing has."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch

from segmodels.checks import shown
from segmodels.encoders.timm_encoder import TIMM
from segmodels.errors import InputError, on_one_line
from segmodels.labels import LabelMap
from segmodels.models.base import Model
from segmodels.models.registry import (
    MODELS,
    check_model_options,
    create_model,
    known_arguments,
    model_entry,
    model_options,
)
from segmodels.outputs import PixelOutput
from segmodels.suggest import near_names
from segmodels.tasks.registry import TASKS, task_class
from segmodels.training.criterion import create_criterion
from segmodels.training.learner import LEARNERS
from segmodels.training.settings import TrainSettings

ANY_LABELS = LabelMap(("stuff", "thing"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1}, things=frozenset({1}))
"""Classes for what every task has, whatever the dataset."""


def check_names(settings: TrainSettings) -> tuple[str, ...]:
    """Check the names of model, task, losses, encoder and published weights and their options, as ``create_recipe``
    does; what depends on the dataset is left to it.

    Returns:
        ``possible_tasks``.

    Raises:
        InputError: a name or option that does not exist, or a value that is impossible.
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
    _check_buildable(settings.model, settings.options, arguments[0])
    _check_deep_supervision(settings, arguments[0])
    return tasks


def _check_buildable(model: str, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Build the model with these options without memory for its weights: some values only show there to be impossible,
    and options of the encoder only when it is shown images, which takes a second. Of timm's encoders, which may
    download weights, and of a user's models nothing is built.
    """
    shaping = _shaping(options)
    if not shaping or not _is_buildable(model, shaping):
        return
    defaults = model_options(model)
    for name, value in shaping.items():
        if isinstance(value, int) and isinstance(default := defaults.get(name), int) and value < 0 < default:
            raise InputError(f"option {name!r} of model {model!r} is {value}, expected at least 0")
    try:
        built = _without_memory(model, {**arguments, **shaping})
    except InputError as error:
        if "meta" in str(error):  # a layer needs values to say so
            return
        raise
    given = f"model {model!r} with {', '.join(f'{name} {shown(value, 40)}' for name, value in shaping.items())}"
    if empty := [name for name, weight in built.named_parameters() if not weight.numel()]:
        raise InputError(f"{given} has no weights in {empty[0]}: correct the option that is too small")
    failure = _failure(built, shaping) if "encoder_options" in shaping else None
    if failure and not _failure(_without_memory(model, arguments), {}):
        raise InputError(f"{given} takes no images ({on_one_line(failure)}): correct the options")


def _check_deep_supervision(settings: TrainSettings, arguments: Mapping[str, Any]) -> None:
    """Raise InputError for weights of auxiliary heads that the model, as it shows without memory, does not have."""
    wanted, shaping = settings.deep_supervision, _shaping(settings.options)
    if not (any(wanted.weights or ()) or wanted.decay) or not _is_buildable(settings.model, shaping):
        return
    try:
        output = _output(_without_memory(settings.model, {**arguments, **shaping}), shaping)
    except Exception:  # it needs prompts or values: the training shows it
        return
    if isinstance(output, PixelOutput) and not output.auxiliary:  # detectors give theirs with targets alone
        advice = ", or its option auxiliary to true" if "auxiliary" in model_options(settings.model) else ""
        raise InputError(
            f"deep_supervision is set, but model {settings.model!r} has no auxiliary heads with these options: leave it"
            f" out{advice}"
        )


def _output(built: Model, options: Mapping[str, Any]) -> Any:
    """What a model without memory gives for images in training."""
    axes = options.get("spatial_dims", 2)
    return built.train()(torch.empty(2, options.get("in_channels", 3), *[256, 256, 64][:axes], device="meta"))


def _failure(built: Model, options: Mapping[str, Any]) -> Exception | None:
    """The error that ``_output`` ends with, but for what models say of images that they do not take."""
    try:
        _output(built, options)
    except InputError:
        return None
    except Exception as error:
        return error
    return None


def _shaping(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide about layers and sizes."""
    return {name: value for name, value in options.items() if name not in ("weights", "encoder_weights")}


def _is_buildable(model: str, options: Mapping[str, Any]) -> bool:
    """Whether building downloads nothing and runs no code of a user."""
    own = MODELS[model].build.__module__.startswith("segmodels.")
    return own and not str(options.get("encoder", "")).startswith(TIMM)


def _without_memory(model: str, options: Mapping[str, Any]) -> Model:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights
        return create_model(model, **options)


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


def supported_task(settings: TrainSettings, labels: LabelMap, objects: bool) -> str:
    """The task that is trained: ``settings.task``, or the first of the model's that the dataset supports.

    Args:
        objects: whether the dataset has annotated objects.

    Raises:
        InputError: the model does not learn that task, or the dataset has no annotations for any.
    """
    tasks = possible_tasks(settings)
    supported = [task for task in tasks if task_class(task).supports(labels, objects)]
    if not supported:
        raise InputError(
            f"the dataset has no annotations for {' or '.join(tasks)}, which model {settings.model!r} learns: add them,"
            " or choose another train.task or train.model"
        )
    return supported[0]


def check_labelled(settings: TrainSettings) -> None:
    """Raise InputError where the model learns from annotations; to be called for images without any."""
    learner = LEARNERS[model_entry(settings.model).card.learner].build
    if getattr(learner, "needs_labels", True):
        raise InputError(
            f"no pixel of the train split is labelled, but model {settings.model!r} learns from labels: add masks, or"
            " set train.model to wnet"
        )


def check_reserved(options: Mapping[str, Any], arguments: Collection[str]) -> None:
    """Raise InputError for options of a model that are its name or among the ``arguments`` that its task gives it."""
    if reserved := sorted(options.keys() & {"name", *arguments}):
        raise InputError(
            f"train.options has {', '.join(reserved)}, which follows from train.model and the dataset: leave it out"
        )

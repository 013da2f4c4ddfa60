"""Builds a training from its settings and the data: model, task, learner, losses, optimiser, schedule and devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segmodels.data.loader import EvaluationLoader, TrainingLoader, evaluation_loader, training_loader
from segmodels.data.shards import ShardReader
from segmodels.encoders.base import Encoder
from segmodels.encoders.pretrained import provenance
from segmodels.errors import InputError
from segmodels.models.registry import (
    BODY_OPTIONS,
    create_model,
    known_arguments,
    model_body,
    model_entry,
    model_options,
)
from segmodels.tasks.base import Task
from segmodels.tasks.registry import create_task
from segmodels.training.averages import WeightAverage
from segmodels.training.class_weights import class_weights
from segmodels.training.criterion import check_requirements, create_criterion
from segmodels.training.devices import Devices, choose_devices
from segmodels.training.distributed import synchronize_batch_norm
from segmodels.training.early_checks import check_labelled, check_reserved, supported_task
from segmodels.training.learner import LEARNERS, Learner
from segmodels.training.memory import check_memory, step_size
from segmodels.training.moving_average import MovingAverage
from segmodels.training.optimizers import create_optimizer
from segmodels.training.schedules import learning_rate_factor
from segmodels.training.self_correction import SelfCorrection, cyclic_learning_rate_factor
from segmodels.training.settings import TrainSettings
from segmodels.training.starting import start_from
from segmodels.training.state import FitSettings


@dataclass(frozen=True)
class Recipe:
    """A training before its first step.

    Attributes:
        model_options: options of ``create_model`` beside ``num_classes``.
        pretrained: which published or other files the model's own options ``weights`` and ``encoder_weights`` are, with
            their digests and licences; None where they are not set.
        learner: with the model (in the order of memory and with the batch norms of the devices), task and losses.
        optimizer: over the model's parameters, each group at its peak learning rate.
        learning_rate_factor: share of training done (0..1) -> factor on the learning rates.
        average: of the weights; None for none.
        fit: how long it runs, and which weights are kept.
    """

    model_options: dict[str, Any]
    pretrained: str | None
    task: Task
    learner: Learner
    optimizer: torch.optim.Optimizer
    learning_rate_factor: Callable[[float], float]
    average: WeightAverage | None
    fit: FitSettings
    devices: Devices


def create_recipe(
    settings: TrainSettings, training: ShardReader, validation: ShardReader, start: Path | None = None
) -> Recipe:
    """The training that ``settings`` describe, for the shards of both splits.

    Args:
        start: folder of a trained model, or weights file of a whole model, whose weights it starts from.

    Raises:
        InputError: a model, loss, option or task that does not exist or does not fit the others or the data, or a step
            that does not fit into memory.
    """
    devices = choose_devices(settings.accelerator, settings.precision, settings.deterministic)
    card = model_entry(settings.model).card
    labels, statistics = training.labels, training.statistics
    if not any(statistics.class_pixels):
        check_labelled(settings)
    task = create_task(supported_task(settings, labels, training.has_objects), labels)
    criterion = create_criterion(
        settings,
        card,
        ignore_index=labels.ignore_index,
        class_weights=class_weights(settings.class_weights, statistics.class_pixels, statistics.present_pixels),
    )
    check_requirements(settings, criterion, training, validation)
    torch.manual_seed(settings.seed)
    options = _model_options(settings, training)
    arguments = known_arguments(settings.model, task.model_arguments(labels))
    check_reserved(options, arguments)
    model = create_model(settings.model, **arguments, **options)
    if start is not None:
        start_from(model, settings.model, start, training.channels)
    learner = LEARNERS[card.learner].build(
        model,
        task,
        criterion,
        mean=statistics.mean,
        std=statistics.std,
        auxiliary_weights=settings.deep_supervision.weights or card.auxiliary_weights,
        auxiliary_decay=settings.deep_supervision.decay,
    )
    _check_learner(settings, learner)
    if not devices.gpu:  # one that runs out of memory says so
        check_memory(settings, devices, model, training, validation)
    learner.model = _on_devices(settings, model, devices)
    return Recipe(
        model_options=options,
        pretrained=_pretrained(settings.model, options, model),
        task=task,
        learner=learner,
        optimizer=create_optimizer(settings, learner.model, fused=devices.gpu and devices.precision != "float16"),
        learning_rate_factor=_schedule(settings),
        average=_average(settings, learner),
        fit=_fit_settings(settings),
        devices=devices,
    )


def create_loaders(
    settings: TrainSettings, task: Task, training: ShardReader, validation: ShardReader, *, rank: int, processes: int
) -> tuple[TrainingLoader, EvaluationLoader]:
    """One process's share of the batches to train on and to choose by.

    Raises:
        InputError: the augmentation does not fit the images, or there are fewer samples than processes.
    """
    share = {"batch_size": settings.batch_size, "rank": rank, "world_size": processes}
    devices = choose_devices(settings.accelerator, settings.precision, settings.deterministic)
    workers = devices.loader_processes if settings.workers == "auto" else settings.workers
    loader = training_loader(
        training, settings.augment, task, seed=settings.seed, workers=workers, pin=devices.gpu, **share
    )
    # whole images, of which fewer fit into memory than crops
    pixels = settings.batch_size * math.prod(step_size(settings, training))
    return loader, evaluation_loader(validation, most_pixels=pixels, **share)


def _check_learner(settings: TrainSettings, learner: Learner) -> None:
    if len(learner.objectives) > 1 and settings.accumulate > 1:
        raise InputError(
            f"train.accumulate is {settings.accumulate}, but model {settings.model!r} takes"
            f" {len(learner.objectives)} steps on every batch: set it to 1"
        )


def _model_options(settings: TrainSettings, reader: ShardReader) -> dict[str, Any]:
    """The user's options, and those that follow from the images where they are not the model's defaults."""
    known = model_options(settings.model)
    options = dict(settings.options)
    for name, value, usual in (("in_channels", reader.channels, 3), ("spatial_dims", reader.spatial_dims, 2)):
        if options.get(name, value) != value:
            raise InputError(
                f"train.options.{name} is {options[name]}, but the images have {value}: leave it out, it follows from"
                " the dataset"
            )
        if name in options or value == known.get(name, usual):
            continue
        if name not in known:
            raise InputError(
                f"images have {name} {value}, but model {settings.model!r} has no such option: choose a model that has"
                " it, such as vnet or attention_unet_original for volumes"
            )
        options[name] = value
    return options


def _pretrained(name: str, options: Mapping[str, Any], model: nn.Module) -> str | None:
    """Which files the options ``weights`` or ``encoder_weights`` are."""
    if weights := options.get("weights"):
        return provenance(weights, name)
    body = model_body(name, **{key: value for key, value in options.items() if key in BODY_OPTIONS})
    if body is None or body.weights is None:
        return None
    form = next((module.form for module in model.modules() if isinstance(module, Encoder)), "")
    return provenance(body.weights, body.encoder, form)


def _on_devices(settings: TrainSettings, model: nn.Module, devices: Devices) -> nn.Module:
    """Channels last for models of images, batch norm over all processes, compiled if wanted."""
    if settings.channels_last and not any(isinstance(module, nn.Conv3d) for module in model.modules()):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub lacks it
    if devices.processes > 1:
        model = synchronize_batch_norm(model, devices.device)
    if settings.compile:
        model.compile()
    return model


def _schedule(settings: TrainSettings) -> Callable[[float], float]:
    cycles = settings.self_correction
    if cycles is None:
        return lambda share: learning_rate_factor(
            settings.schedule, share, warmup=settings.warmup, power=settings.power
        )
    warmup = settings.warmup * settings.epochs
    return lambda share: cyclic_learning_rate_factor(
        round(share * settings.epochs, 9),  # a cycle begins on the epoch, not a rounding error later
        start=cycles.start_epoch,
        cycle=cycles.cycle_epochs,
        warmup=warmup,
    )


def _average(settings: TrainSettings, learner: Learner) -> WeightAverage | None:
    if cycles := settings.self_correction:
        return SelfCorrection(
            learner.model,
            cycles.start_epoch,
            cycles.cycle_epochs,
            normalised=learner.normalised,
            ignore_index=learner.task.labels.ignore_index,
        )
    return MovingAverage(learner.model, settings.ema) if settings.ema else None


def _fit_settings(settings: TrainSettings) -> FitSettings:
    stopping = settings.early_stopping
    return FitSettings(
        epochs=settings.epochs,
        accumulate=settings.accumulate,
        gradient_clip=settings.gradient_clip,
        minutes=settings.minutes,
        validate_every=settings.validate_every,
        patience=stopping.patience if stopping else None,
        min_delta=stopping.min_delta if stopping else 0.0,
        save_minutes=settings.save_minutes,
    )

"""Train a model on the shards; the best weights and the MLflow run's name come out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import VALIDATION_PICTURES
from components.params.reading import plain
from components.params.schema import TrainParams
from components.running.atomic import written_output
from components.running.folder_lock import locked_folder
from components.running.stop_signal import StopSignal
from components.tracking.lineage import checkpoint_key, lineage
from components.tracking.presentation import SEPARATOR, dataset_words, run_name
from segmodels.errors import InputError, TransientError, on_one_line

if TYPE_CHECKING:
    from components.running.training_display import TrainingDisplay
    from segmodels.data.loader import EvaluationLoader, TrainingLoader
    from segmodels.data.shards import ShardReader
    from segmodels.training.fit import Fit
    from segmodels.training.recipe import Recipe


def train(params: TrainParams, shards: Path, model: Path, checkpoints: Path, anew: str = "") -> None:
    """Train until the epochs, the minutes or the patience are used up; resume an earlier, killed training.

    Under ``torchrun`` each process takes its share of every batch (DDP). Where the profile shares a training among
    machines or GPUs, a Kubeflow TrainJob does that, and this step follows it (train_job/).

    Args:
        params: section ``train`` of params.yaml.
        shards: folder that ``preprocess`` wrote.
        model: folder to write: weights.safetensors, model.json, reference.safetensors (statistics of training images,
            see docs/monitoring.md), run.json, metrics.jsonl.
        checkpoints: folder of states, one sub-folder per lineage; training resumes from the one of its own lineage.
        anew: any name for this training; it then resumes from states of trainings of this name alone, so that an equal
            training that has ended is not taken for it.

    Raises:
        InputError: the parameters name something that does not exist or does not fit the data, shards are damaged,
            ``params.init`` names no trained model, MLflow's address or store is wrong, or the training diverges.
        TransientError: another process trains the same, MLflow does not answer at the start, or the object store of the
            shards stops answering.
        SystemExit: 143 after SIGTERM, the state saved. Before the first step the process ends at once.
    """
    from components.tracking.model_registry import pinned
    from components.tracking.starting_point import starting_point
    from components.train_job.launch import train_by_job, train_job_settings

    params = replace(params, init=pinned(params.init))

    if settings := train_job_settings():
        train_by_job(settings, params, shards, model, anew=anew)
        return

    from segmodels.data.shards import ShardReader

    with StopSignal() as stop, starting_point(params) as start:
        cache_bytes = 1e9 * params.cache_gigabytes
        readers = reader, _ = [ShardReader(shards, split, cache_bytes=cache_bytes) for split in ("train", "val")]

        # torch from here on: missing shards are reported without waiting for it
        from segmodels.training.code_digest import code_digest, training_code
        from segmodels.training.recipe import create_loaders, create_recipe

        rank = int(os.environ.get("RANK", "0"))  # of the processes that torchrun started
        recipe = create_recipe(params, readers[0], readers[1], start.path)
        loaders = create_loaders(params, recipe.task, *readers, rank=rank, processes=recipe.devices.processes)
        facts = lineage(
            data_digest=reader.digest,
            params=plain(params),
            longer_side=reader.longer_side,
            code_digest=code_digest(training_code(params, recipe.task.name)),
            sample_order=reader.order_name if reader.windowed else None,
        )
        facts |= start.facts | ({"pretrained": recipe.pretrained} if recipe.pretrained else {})
        facts |= {"trained_anew": anew} if anew else {}
        state = checkpoints / checkpoint_key(facts)
        with locked_folder(state, "training") if rank == 0 else nullcontext():
            _train(params, reader, recipe, loaders, facts, state, model, stop)


def _train(
    params: TrainParams,
    reader: ShardReader,
    recipe: Recipe,
    loaders: tuple[TrainingLoader, EvaluationLoader],
    facts: Mapping[str, str],
    state: Path,
    model: Path,
    stop: StopSignal,
) -> None:
    from components.running.training_display import TrainingDisplay
    from components.storage.checkpoints import open_checkpoints
    from components.tracking.tracked_training import TrackedTraining
    from components.tracking.validation_pictures import ValidationPictures
    from segmodels.models.registry import model_entry
    from segmodels.training.criterion import loss_config
    from segmodels.training.fit import Fit, Stopped

    saved = open_checkpoints(state)  # the other processes wait below for the one that fetches
    fabric = recipe.devices.launch(reaches_all_parameters=recipe.learner.reaches_all_parameters)
    first, size = fabric.is_global_zero, sum(p.numel() for p in recipe.learner.model.parameters())
    headline = list(recipe.task.headline)[:2]
    tracked = TrackedTraining(
        experiment=params.experiment,
        name=run_name(
            params.model, loss_config(params, model_entry(params.model).card), params.lr, checkpoint_key(facts)
        ),
        params={**plain(params), "parameters": size, "classes": reader.labels.num_classes},
        facts=facts,
        description=SEPARATOR.join(
            (
                f"dataset {dataset_words(reader.source)}, {len(reader):,} training images,"
                f" {reader.labels.num_classes} classes",
                f"model {params.model}, {size:,} parameters",
            )
        ),
        columns=[*(recipe.task.metric(score, split) for split in ("test", "val") for score in headline), "val/loss"],
        state=state,
        reader=reader,
        task=recipe.task,
        pictures=ValidationPictures(recipe.task, state / VALIDATION_PICTURES, params.epochs, recipe.fit.validate_every),
        system_metrics=params.system_metrics,
        enabled=first,
    )
    with tracked as run, TrainingDisplay(params.epochs, recipe.task, enabled=first) as display:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            run.log(epoch, metrics | gpu_memory())
            display.on_epoch(epoch, metrics, best=fit.progress.best_epoch == epoch)

        fit = Fit(
            fabric,
            recipe.learner,
            recipe.optimizer,
            recipe.learning_rate_factor,
            *loaders,
            settings=recipe.fit,
            average=recipe.average,
            checkpoints=saved,
            on_batch=display.on_batch,
            on_results=lambda batch, results: run.see(fit.progress.epoch, batch, results),
            on_validation=run.count,
            on_epoch=on_epoch,
            stop=stop,
            warn=display.warn,
        )
        stop.defer()
        try:
            best = fit.run()
        except Stopped:
            display.warn(
                f"stopped: epoch {fit.progress.epoch}, batch {fit.progress.batch} is saved in {state}, the next run"
                " resumes from there"
            )
            raise SystemExit(stop.exit_code) from None
        if first:
            recipe.learner.model.load_state_dict(best)
            with written_output("train", model) as folder:
                _write_bundle(folder, params, recipe, fit, reader, facts)
                _add_reference(folder, reader, fabric.device, display)
                run.leave_with(folder)
    if fabric.world_size > 1:
        fabric.barrier()


def gpu_memory() -> dict[str, float]:
    """Most gigabytes of GPU memory that tensors of this process have taken; empty without a GPU."""
    import torch

    return {"gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9} if torch.cuda.is_initialized() else {}


def _write_bundle(
    folder: Path, params: TrainParams, recipe: Recipe, fit: Fit, reader: ShardReader, facts: Mapping[str, str]
) -> None:
    from segmodels.inference.bundle import save_bundle
    from segmodels.tasks.registry import create_task

    task = recipe.task
    save_bundle(
        folder,
        recipe.learner.model,
        name=params.model,
        options=recipe.model_options,
        task=create_task(task.name, task.labels, fit.progress.best_settings),
        mean=reader.statistics.mean,
        std=reader.statistics.std,
        lineage=dict(facts),
        metrics={**fit.progress.best_metrics, "epoch": fit.progress.best_epoch},
        longer_side=reader.longer_side,
        dtype=reader.dtype.name,
        spatial_dims=reader.spatial_dims,
        neighbours=reader.neighbours,
    )


def _add_reference(folder: Path, reader: ShardReader, device: Any, display: TrainingDisplay) -> None:
    """Add reference statistics; a model that cannot have any is still written."""
    from segmodels.inference.bundle import add_reference, load_bundle
    from segmodels.inference.observation import make_reference
    from segmodels.inference.predictor import Predictor

    try:
        add_reference(folder, make_reference(Predictor(load_bundle(folder), device), reader, display.observing))
    except (InputError, TransientError, RuntimeError) as error:
        display.warn(f"the model has no reference statistics, so drift cannot be found: {on_one_line(error)}")

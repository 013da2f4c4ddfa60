"""Train a model on the shards; the best weights and the MLflow run's name come out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import RUN
from components.params.reading import plain
from components.params.schema import TrainParams
from components.running.atomic import written_folder
from components.steps.training_task import (
    create_optimizer,
    create_task,
    image_classes,
    in_memory_format,
    learning_rate_factor,
    leaves_weights_without_gradient,
)
from components.tracking.lineage import checkpoint_key, lineage
from segmodels.errors import InputError

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric

    from segmodels.annotations import Annotation
    from segmodels.data.loader import EvaluationLoader, TrainingLoader
    from segmodels.data.shards import ShardReader
    from segmodels.labels import LabelMap
    from segmodels.training.learner import Task
    from segmodels.training.state import Progress


def train(params: TrainParams, shards: Path, model: Path, checkpoints: Path) -> None:
    """Train until the epochs, the minutes or the patience are used up; go on where an earlier, killed training stopped.

    Under ``torchrun`` each process takes its share of every batch (DDP). Where the profile shares a training among
    machines or GPUs, a Kubeflow TrainJob does that, and this step follows it (train_job.py).

    Args:
        params: section ``train`` of params.yaml.
        shards: folder that ``preprocess`` wrote.
        model: folder to write: weights.safetensors, model.json, run.json.
        checkpoints: folder of states, one sub-folder per lineage; training resumes from the one of its own lineage.

    Raises:
        InputError: what the parameters name does not exist or does not fit the data, shards are damaged, MLflow does
            not answer.
        SystemExit: 143 after SIGTERM, the state saved.
    """
    from components.train_job.launch import train_by_job, train_job_settings

    if settings := train_job_settings():
        train_by_job(settings, params, shards, model)
        return

    from segmodels.data.shards import ShardReader

    stop = _StopSignal()
    readers = ShardReader(shards, "train"), ShardReader(shards, "val")

    from components.running.training_display import TrainingDisplay
    from components.storage.checkpoints import (
        open_checkpoints,
    )  # torch from here on: missing shards are said without waiting for it

    facts = lineage(data_digest=readers[0].digest, params=plain(params), longer_side=readers[0].longer_side)
    state = checkpoints / checkpoint_key(facts)
    saved = open_checkpoints(state)  # other processes wait in _fabric for the one that fetches
    fabric = _fabric(params)
    task = create_task(params, *readers)
    task.model = in_memory_format(params, task.model)
    if fabric.world_size > 1:
        from segmodels.training.distributed import synchronize_batch_norm

        task.model = synchronize_batch_norm(task.model, fabric.device)
    if params.compile:
        task.model.compile()
    batches = _batches(params, fabric, *readers)

    first = fabric.is_global_zero
    with (
        _TrackedRun(params, facts, state, readers, task, enabled=first) as run,
        TrainingDisplay(params, enabled=first) as display,
    ):

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            run.log(epoch, metrics)
            display.on_epoch(epoch, metrics, best=fit.progress.best_epoch == epoch)

        fit = _fit(
            fabric, params, task, readers[0].labels, batches, saved, display.on_batch, on_epoch, stop, display.warn
        )
        try:
            best = fit.run()
        except BaseException as error:
            from segmodels.training.fit import Stopped

            if isinstance(error, Stopped):
                display.warn(
                    f"stopped: epoch {fit.progress.epoch}, batch {fit.progress.batch} is saved in {state}, the next run"
                    " resumes from there"
                )
                raise SystemExit(stop.exit_code) from None
            if "Expected more than 1 value per channel" in str(
                error
            ):  # batch norm of a map that is pooled to one value
                raise InputError(
                    f"model {params.model!r} normalises over the images of a batch, and train.batch_size is"
                    f" {params.batch_size}: set it to 2 or more"
                ) from None
            raise
        if first:
            _write_model(model, params, task, best, readers[0], facts, state, fit.progress)
    if fabric.world_size > 1:
        fabric.barrier()


# --- where and how


def _fabric(params: TrainParams) -> Fabric:
    import logging

    import torch
    from lightning.fabric import Fabric
    from lightning_utilities.core import rank_zero

    rank_zero.log.setLevel(logging.WARNING)  # no lines about Fabric's choices: they are in the parameters
    gpu = params.accelerator == "gpu" or (params.accelerator == "auto" and torch.cuda.is_available())
    if gpu and not torch.cuda.is_available():
        raise InputError(
            "train.accelerator is 'gpu' but torch sees no GPU: install a CUDA build of torch, or choose cpu or auto"
        )
    if params.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(params.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not params.deterministic
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    precision: Any = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[_precision(params, gpu)]
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=local if world > 1 else 1,
        num_nodes=world // local,
        strategy=(
            "auto"
            if world == 1
            else "ddp_find_unused_parameters_true"
            if leaves_weights_without_gradient(params)
            else "ddp"
        ),
        precision=precision,
    )
    fabric.launch()
    return fabric


def _precision(params: TrainParams, gpu: bool) -> str:
    import torch

    if params.precision == "float16" and not gpu:
        raise InputError("train.precision is 'float16' but there is no GPU: choose bfloat16, float32 or auto")
    if params.precision != "auto":
        return params.precision
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def _batches(
    params: TrainParams, fabric: Fabric, training: ShardReader, validation: ShardReader
) -> tuple[_TrainingTuples, _ValidationTuples]:
    """This process's share of the batches to train on and to choose by."""
    from segmodels.data.loader import evaluation_loader, training_loader

    share = {"batch_size": params.batch_size, "rank": fabric.global_rank, "world_size": fabric.world_size}
    image_labels = image_classes(params) > 0
    loader = training_loader(
        training, params.augment, _Tuples(image_labels), seed=params.seed, workers=params.workers, **share
    )
    return _TrainingTuples(loader), _ValidationTuples(evaluation_loader(validation, **share), _Tuples(image_labels))


def _fit(
    fabric: Fabric,
    params: TrainParams,
    task: Task,
    labels: LabelMap,
    batches: tuple[_TrainingTuples, _ValidationTuples],
    checkpoints: Any,
    on_batch: Callable[..., None],
    on_epoch: Callable[[int, dict[str, float]], None],
    stop: Callable[[], bool],
    warn: Callable[[str], None],
) -> Any:
    from segmodels.training.fit import Fit
    from segmodels.training.state import FitSettings

    patience, cycles = params.early_stopping, params.self_correction
    return Fit(
        fabric,
        task,
        create_optimizer(params, task.model),
        lambda share: learning_rate_factor(params, share),
        *batches,
        settings=FitSettings(
            epochs=params.epochs,
            accumulate=params.accumulate,
            gradient_clip=params.gradient_clip,
            minutes=params.minutes,
            ema=params.ema,
            self_correction=(cycles.start_epoch, cycles.cycle_epochs) if cycles else None,
            validate_every=params.validate_every,
            patience=patience.patience if patience else None,
            min_delta=patience.min_delta if patience else 0.0,
        ),
        num_classes=labels.num_classes,
        ignore_index=labels.ignore_index,
        checkpoints=checkpoints,
        on_batch=on_batch,
        on_epoch=on_epoch,
        stop=stop,
        warn=warn,
    )


class _Tuples:
    """Targets as ``Fit`` takes them: the class maps as one tensor, and the images' labels where the model has some."""

    reads_objects = False

    def __init__(self, image_labels: bool) -> None:
        self.image_labels = image_labels

    def targets(self, annotations: Sequence[Annotation]) -> tuple[torch.Tensor, ...]:
        import numpy as np
        import torch

        classes = torch.from_numpy(np.stack([annotation.classes for annotation in annotations]))
        if not self.image_labels:
            return (classes,)
        return classes, torch.tensor([annotation.image_label for annotation in annotations])


class _TrainingTuples:
    """Training batches as ``Fit`` takes them."""

    def __init__(self, loader: TrainingLoader) -> None:
        self.loader = loader
        self.set_epoch = loader.set_epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return ((batch.images, *batch.targets) for batch in self.loader)


class _ValidationTuples:
    """Validation batches as ``Fit`` takes them: in this split the maps have the size of the images."""

    def __init__(self, loader: EvaluationLoader, targets: _Tuples) -> None:
        self.loader = loader
        self.targets = targets

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return ((batch.images, *self.targets.targets(batch.annotations)) for batch in self.loader)


class _StopSignal:
    """True once SIGTERM (a scheduler takes the machine back) or SIGINT came; the loop then saves and leaves."""

    def __init__(self) -> None:
        self.exit_code = 0
        try:
            signal.signal(signal.SIGTERM, self._received)
            signal.signal(signal.SIGINT, self._received)
        except ValueError:  # not the main thread: the caller owns the signals
            pass

    def _received(self, number: int, _frame: object) -> None:
        if self.exit_code:  # asked twice: at once
            raise KeyboardInterrupt
        self.exit_code = 128 + number

    def __call__(self) -> bool:
        return self.exit_code != 0


# --- what is kept


class _TrackedRun:
    """The MLflow run around a training: parameters, lineage, data, metrics, how it ended. Only the first process has
    one.
    """

    def __init__(
        self,
        params: TrainParams,
        facts: Mapping[str, str],
        state: Path,
        readers: tuple[ShardReader, ShardReader],
        task: Task,
        *,
        enabled: bool,
    ) -> None:
        self.params, self.facts, self.state, self.readers, self.task, self.enabled = (
            params,
            facts,
            state,
            readers,
            task,
            enabled,
        )

    def __enter__(self) -> _TrackedRun:
        if self.enabled:
            from components.tracking import runs

            size = sum(p.numel() for p in self.task.model.parameters())
            logged = {
                **plain(self.params),
                "parameters": size,
                "classes": self.readers[0].labels.num_classes,
            }
            self.run = runs.start_run(
                experiment=self.params.experiment,
                name=self.params.model,
                state=self.state,
                params=logged,
                tags=self.facts,
            )
            self.run.log_dataset(name="train", source=self.readers[0].source, digest=self.readers[0].digest)
            self.done = self.run.logged_steps()
            self.monitor = runs.start_system_metrics(self.run) if self.params.system_metrics else None
        return self

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        if self.enabled and epoch not in self.done:
            self.run.log_metrics(metrics, step=epoch)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self.enabled:
            return
        if self.monitor:
            self.monitor.finish()
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        self.run.finish("FINISHED" if error is None else "KILLED" if stopped else "FAILED")


def _write_model(
    model: Path,
    params: TrainParams,
    task: Task,
    best: Mapping[str, torch.Tensor],
    reader: ShardReader,
    facts: Mapping[str, str],
    state: Path,
    progress: Progress,
) -> None:
    from segmodels.inference.bundle import save_bundle
    from segmodels.tasks.registry import FIRST, create_task

    task.model.load_state_dict(best)
    with written_folder(model) as folder:
        save_bundle(
            folder,
            task.model,
            name=params.model,
            options=params.options,
            task=create_task(FIRST, reader.labels),
            mean=reader.statistics.mean,
            std=reader.statistics.std,
            lineage=dict(facts),
            metrics={**progress.best_metrics, "epoch": progress.best_epoch},
            longer_side=reader.longer_side,
        )
        RUN.write(folder, RUN.read(state))

"""What section ``evaluate`` and ``register.metric`` ask of the model that a training on these shards would give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from components.params.schema import PipelineParams
from components.params.tasks import check_metric, task_settings
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.tasks.base import Task


def check_measuring(params: PipelineParams, shards: Path) -> None:
    """Check, before hours of training, that its model can be measured as ``params`` say.

    Raises:
        InputError: the task that is trained lacks a setting or the score, the settings do not suit the images, or
            nothing in the labelled test images defines the score.
        TransientError: the object store of the shards does not answer.
    """
    settings, metric = params.evaluate.settings, params.register.metric
    if not settings and metric is None:
        return
    from segmodels.data.shard_info import read_info
    from segmodels.tasks.registry import create_task, task_class
    from segmodels.training.early_checks import supported_task

    info = read_info(shards)
    objects = any(shard["objects"] for split in info.shards.values() for shard in split)
    name = supported_task(params.train, info.labels, objects)
    task = create_task(name, info.labels, task_settings(params.evaluate, task_class(name).Settings))
    try:
        task.check_images(info.form)
    except InputError as error:
        raise InputError(f"section evaluate: {error}") from None
    if metric is not None:
        check_metric(metric, [name], f"the task trained is {name}")
        if metric not in task.headline and "test" in info.shards:
            _check_defined(metric, task, shards)


def _check_defined(metric: str, task: Task, shards: Path) -> None:
    """Raise InputError where the test images are labelled, but even a model without errors would not have the score. As
    a rule the first image shows that it would.
    """
    from segmodels.data.shards import ShardReader

    reader = ShardReader(shards, "test")
    labelled = False
    for index in range(len(reader) if reader.annotated else 0):
        evaluator, annotation = task.evaluator(), reader.annotation(index)
        evaluator.update([task.truth(annotation)], [annotation], [reader.id(index)])
        scores = evaluator.scores()
        if not math.isnan(scores[metric]):
            return
        labelled |= not math.isnan(scores[next(iter(task.headline))])
    if labelled:
        raise InputError(
            f"register.metric is {metric}, which nothing in the {len(reader)} test images defines: choose another"
            f" score, such as {next(iter(task.headline))}"
        )

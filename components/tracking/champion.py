"""Measures the champion on the test images of a new model, each by the settings that it is served with."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from components.tracking.promotion import Rival
from segmodels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from components.tracking.model_registry import Registry, Version
    from segmodels.data.batches import EvaluationBatch
    from segmodels.data.loader import EvaluationLoader
    from segmodels.data.shards import ShardReader
    from segmodels.inference.bundle import Bundle
    from segmodels.metrics import Comparison
    from segmodels.tasks.base import Evaluator, Task

BY_HAND = "set register.name to another name, or move the alias champion by hand"
RESAMPLES = 2000


def measure_champion(
    registry: Registry,
    champion: Version,
    reader: ShardReader,
    task: Task,
    candidate: Evaluator,
    metric: str,
    *,
    confidence: float,
    batch_size: int,
    device: str,
    watch: Callable[[EvaluationLoader], Iterable[EvaluationBatch]],
) -> Rival:
    """The champion's score on ``reader``, and how it compares with the new model.

    Args:
        task: of the new model.
        candidate: counts of the new model on the same images.
        metric: name of the score.
        confidence: of the interval of the difference.
        watch: wraps the batches, to show progress.
    """
    from segmodels.inference.bundle import load_bundle
    from segmodels.inference.description import DamagedBundleError
    from segmodels.inference.measure import measure
    from segmodels.inference.predictor import Predictor

    number = champion.number
    with TemporaryDirectory() as temporary:
        try:
            folder = registry.download(champion, Path(temporary))
        except DamagedBundleError as error:
            return Rival(number, problem=f"is damaged ({error})", usable=False)
        except InputError:
            return Rival(number, problem="has lost its files", usable=False)
        try:
            bundle = load_bundle(folder)
        except DamagedBundleError as error:  # it was registered so
            return Rival(number, problem=f"is damaged ({error})", usable=False)
        except InputError as error:
            return Rival(number, problem=f"cannot be rebuilt by this version of the code ({error}): {BY_HAND}")
    if problem := _differs(bundle, reader, task):
        return Rival(number, problem=f"{problem}: {BY_HAND}")
    evaluator = measure(Predictor(bundle, device), reader, batch_size, watch)
    return Rival(
        number,
        evaluator.scores()[metric],
        significance=_significance(candidate, evaluator, metric, confidence),
        class_losses=_class_losses(candidate, evaluator, task.class_score),
    )


def _differs(bundle: Bundle, reader: ShardReader, task: Task) -> str:
    """Why the champion cannot be measured by the new model's images; empty if it can."""
    if bundle.task.name != task.name:
        return f"is a model of {bundle.task.name} segmentation, not {task.name}"
    if bundle.labels.classes != reader.labels.classes:
        return f"knows other classes ({', '.join(bundle.labels.classes)})"
    if (bundle.channels, bundle.dtype, bundle.spatial_dims) != (
        reader.channels,
        reader.dtype.name,
        reader.spatial_dims,
    ):
        return f"takes {bundle.dtype} images of {bundle.channels} channels and {bundle.spatial_dims} axes"
    return ""


def _class_losses(candidate: Evaluator, baseline: Evaluator, score: str) -> dict[str, float]:
    """Class -> how much lower the candidate's score is; without classes that either has no score of."""
    mine, theirs = ({row["class"]: row[score] for row in one.per_class()} for one in (candidate, baseline))
    losses = {name: value - mine[name] for name, value in theirs.items() if name in mine}
    return {name: loss for name, loss in losses.items() if loss == loss}


def _significance(candidate: Evaluator, baseline: Evaluator, metric: str, confidence: float) -> Comparison | None:
    """None where there is nothing to resample."""
    from segmodels.metrics import compare

    ids = candidate.images()["id"]
    if len(ids) < 2 or ids != baseline.images()["id"] or math.isnan(baseline.scores()[metric]):
        return None
    mine, theirs = (partial(evaluator.resampled, metric) for evaluator in (candidate, baseline))
    return compare(mine, theirs, metric, len(ids), RESAMPLES, confidence)

"""Measuring a model on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from segmodels.data.batches import EvaluationBatch
from segmodels.data.loader import EvaluationLoader, evaluation_loader
from segmodels.data.shards import ShardReader
from segmodels.inference.predictor import Predictor
from segmodels.tasks.base import Evaluator


def measure(
    predictor: Predictor,
    reader: ShardReader,
    batch_size: int,
    watch: Callable[[EvaluationLoader], Iterable[EvaluationBatch]] = iter,
) -> Evaluator:
    """Predict every image of ``reader`` and count the results at the resolution of its annotation.

    Images pass one batch at a time: only the counts of each stay.

    Args:
        batch_size: images of one size predicted at once.
        watch: wraps the batches, to show progress.
    """
    evaluator = predictor.task.evaluator()
    for batch in watch(evaluation_loader(reader, batch_size=batch_size)):
        on_device = batch._replace(images=batch.images.to(predictor.device))
        with torch.inference_mode():
            results = predictor.task.results(predictor.network, on_device)
        evaluator.update(results, batch.annotations, batch.ids)
    return evaluator

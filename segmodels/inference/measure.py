"""Measuring a model on a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from segmodels.data.batches import EvaluationBatch
from segmodels.data.loader import EvaluationLoader, evaluation_loader
from segmodels.data.shards import ShardReader
from segmodels.inference.predictor import MANY_PIXELS, Predictor
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
        batch_size: images of one size predicted at once; on a CPU fewer where memory is short.
        watch: wraps the batches, to show progress.

    Raises:
        InputError: one image needs more memory than is free.
    """
    evaluator = predictor.task.evaluator()
    for batch in watch(
        evaluation_loader(reader, batch_size=batch_size, most_pixels=_most_pixels(predictor, reader, batch_size))
    ):
        on_device = batch._replace(images=batch.images.to(predictor.device))
        with torch.inference_mode():
            results = predictor.task.results(predictor.network, on_device)
        evaluator.update(results, batch.annotations, batch.ids)
    return evaluator


def _most_pixels(predictor: Predictor, reader: ShardReader, batch_size: int) -> float:
    """Pixels of the images that may be predicted at once, which windows do not change: a prediction may take half of
    what is free by the least that it needs.
    """
    few = batch_size * math.prod(reader.largest) <= MANY_PIXELS
    if few or getattr(predictor.task.settings, "sliding_window", None):
        return math.inf
    return math.prod(reader.largest) * predictor.room((1, predictor.channels, *reader.largest)) / 2

"""One pass over the validation images."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch

from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.finite import largest_magnitude
from segmodels.tasks.base import Evaluator
from segmodels.training.fabric import Fabric
from segmodels.training.learner import Learner, Turn
from segmodels.training.means import LossSums, mean_losses
from segmodels.training.processes import of_all

OUTPUT_LIMIT = torch.finfo(torch.float16).max
"""Magnitude, 65504, that outputs of useful weights stay within; those of a training that diverged to finite numbers do
not. In half precision such outputs are infinite, so the limit is the same in every precision.
"""


class Validation(NamedTuple):
    """Counts and losses of the learner's model on the validation images of all processes."""

    evaluator: Evaluator
    losses: dict[str, float]  # means over the images, by name: val/loss, ...
    within_limit: bool  # whether all outputs are; those that are not finite are not


@torch.no_grad()
def validate(
    fabric: Fabric,
    learner: Learner,
    batches: Iterable[EvaluationBatch],
    share_done: float,
    after_batch: Callable[[float], None],
    on_results: Callable[[EvaluationBatch, Sequence[Any]], None] = lambda *_: None,
) -> Validation:
    """Measure the learner's model in evaluation mode.

    Args:
        batches: this process's share of the images; annotations have the size of the images.
        share_done: of the training, 0..1.
        after_batch: called with the seconds that each batch took; what it raises ends the validation.
        on_results: called with each batch and its results.
    """
    learner.eval()
    task, evaluator = learner.task, learner.task.evaluator()
    sums = LossSums()
    within_limit = torch.tensor(True, device=fabric.device)
    turn, start = Turn(learner.objectives[0], share_done), time.monotonic()
    for batch in batches:
        images, targets = fabric.to_device((batch.images, task.targets(batch.annotations)))
        inputs = Batch(images, targets, torch.tensor(batch.indices))
        with fabric.autocast():
            losses = learner(inputs, turn)
        within_limit &= largest_magnitude(losses.output) <= OUTPUT_LIMIT  # stays on the device until the end
        results = learner.results(losses.output, batch._replace(images=inputs.images))
        evaluator.update(results, batch.annotations, batch.ids)
        on_results(batch, results)
        sums.add(losses, len(batch.ids))
        now = time.monotonic()
        after_batch(now - start)
        start = now
    return Validation(
        reduce(operator.add, of_all(fabric, evaluator)),
        mean_losses("val", of_all(fabric, sums.totals())),
        all(of_all(fabric, bool(within_limit))),
    )

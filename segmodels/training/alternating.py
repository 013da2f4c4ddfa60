"""W-Net without labels: Xia, Kulis: W-Net, arXiv 1711.08506, algorithm 1."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from segmodels.data.batches import Batch
from segmodels.errors import InputError
from segmodels.losses.base import Images
from segmodels.outputs import PixelOutput
from segmodels.tasks.base import Evaluator
from segmodels.training.learner import Learner, Losses, Turn, register_learner

if TYPE_CHECKING:
    from segmodels.models.wnet import WNet
    from segmodels.tasks.semantic_evaluator import SemanticEvaluator


@register_learner("alternating")
class AlternatingLearner(Learner):
    """On every batch, a step on the soft normalised cut of the segments (first network only), then one on the error of
    the rebuilt image (both).

    Class maps are for the scores alone: the segments found have no names, so those of the validation are matched with
    the classes one to one, such that as many pixels as possible agree. The weights to keep are chosen by the loss,
    without labels; kept, their segments have the numbers of their classes.

    Raises:
        InputError: other losses than ``soft_normalized_cut`` and ``reconstruction``.
    """

    model: WNet
    objectives: ClassVar[tuple[str, ...]] = ("soft_normalized_cut", "reconstruction")
    needs_labels: ClassVar[bool] = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.criterion.weights.keys() != set(self.objectives):
            expected = ", ".join(f"{name}: 1.0" for name in self.objectives)
            raise InputError(
                f"loss has the terms {', '.join(self.criterion.weights)}, but training without labels takes two in"
                f" turn: expected {{{expected}}}"
            )

    @property
    def reaches_all_parameters(self) -> bool:
        return False  # the cut is of the first network

    def forward(self, batch: Batch, turn: Turn) -> Losses:
        """In training the loss of the objective whose turn it is, in evaluation the sum of both."""
        images = Images(batch.images, self.normalised(batch.images))
        output = self.model(images.normalised)
        if not self.training:
            rebuilt = self.model.reconstruct(images.normalised)
            output = PixelOutput(output.logits, extras={"reconstruction": rebuilt})
        terms = {}
        for name in (turn.objective,) if self.training else self.objectives:
            value = self.criterion.losses[name].term(output, batch.targets, images)
            assert value is not None
            terms[name] = value
        return Losses(self.criterion.total(terms), terms, None if self.training else output)

    def score(self, metrics: Mapping[str, float]) -> float:
        return -metrics["val/loss"]

    def judged(self, evaluator: Evaluator) -> Evaluator:
        found: SemanticEvaluator = evaluator  # type: ignore[assignment]  # W-Net's only task
        return found.reordered(match_segments(found.counts).tolist())

    def kept(self, model: nn.Module, evaluator: Evaluator) -> dict[str, Tensor]:
        named: WNet = copy.deepcopy(model)  # type: ignore[assignment]  # the only model of this learner
        _, counts = evaluator.confusion()
        named.reorder_segments(match_segments(counts).tolist())
        return super().kept(named, evaluator)


def match_segments(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The segment of each class, every segment once, such that as many pixels as possible agree (Hungarian method).

    Args:
        counts: pixels by class (row) and segment (column), ``(C, C)``.
    """
    from scipy.optimize import linear_sum_assignment

    _, segments = linear_sum_assignment(counts, maximize=True)
    return segments

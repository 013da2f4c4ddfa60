"""How a model learns: raw images and targets in, losses out. A learner is registered by name; models' cards name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.losses.base import Images
from segmodels.losses.registry import WeightedSum
from segmodels.registry import Registry
from segmodels.tasks.base import Evaluator, Task


class Turn(NamedTuple):
    """The state of the training loop at a step."""

    objective: str = "loss"  # of ``Learner.objectives``
    share_done: float = 0.0  # of the training, 0..1
    soft_labels: Tensor | None = None  # (B, C, *spatial), corrected labels


class Losses(NamedTuple):
    """Losses of a batch."""

    loss: Tensor | None  # scalar that is minimised; None in evaluation where no loss has what it reads
    terms: dict[str, Tensor]  # its unweighted terms, and other means over the images worth a curve; scalars
    output: Any = None  # what ``Learner.results`` reads, in evaluation; None in training


class Learner(nn.Module):
    """A model with its normalisation and the losses that it is trained by.

    Args:
        model: ``model(images, guide=None)`` maps normalised images to an output (``segmodels.outputs``); in training
            the guide is the targets.
        task: what the output is read as.
        criterion: the losses of one layer of an output.
        mean, std: per channel, in the units of the images.
        auxiliary_weights: weight of each auxiliary layer of the output (deep supervision, Lee 2014, 1409.5185), in the
            model's order; layers beyond the list take its last entry.
        auxiliary_decay: the weights fall linearly to 0 until the end of training (as in Lee 2014).

    Attributes:
        objectives: minimised in turn, an optimiser step each, on every batch.
        needs_labels: whether it learns from annotations.
    """

    objectives: ClassVar[tuple[str, ...]] = ("loss",)
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        criterion: WeightedSum,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        auxiliary_weights: Sequence[float] = (0.4,),
        auxiliary_decay: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.criterion = criterion
        self.auxiliary_weights = tuple(auxiliary_weights)
        self.auxiliary_decay = auxiliary_decay
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, batch: Batch, turn: Turn) -> Losses:
        """The losses of a batch; in evaluation the model's output, too."""
        raise NotImplementedError

    @property
    def reaches_all_parameters(self) -> bool:
        """Whether every step gives every trained parameter a gradient; DDP must know."""
        return 0 not in self.auxiliary_weights

    def normalised(self, images: Tensor) -> Tensor:
        """Raw ``images`` ``(B, C, *spatial)`` of any type as the model takes them, float32."""
        shape = (1, -1, *(1,) * (images.ndim - 2))
        return (images.float() - self.mean.view(shape)) / self.std.view(shape)

    def results(self, output: Any, batch: EvaluationBatch) -> list[Any]:
        """Results of a batch of a validation, whose images are on the device.

        Args:
            output: of the ``Losses`` of that batch.
        """
        return self.task.read(output, [annotation.size for annotation in batch.annotations])

    def judged(self, evaluator: Evaluator) -> Evaluator:
        """The evaluator whose scores count, given that of a validation."""
        return evaluator

    def score(self, metrics: Mapping[str, float]) -> float:
        """The score that chooses the weights to keep, higher is better; ``metrics`` are those of a validation."""
        return metrics[self.task.metric(next(iter(self.task.headline)), "val")]

    def kept(self, model: nn.Module, evaluator: Evaluator) -> dict[str, Tensor]:
        """The weights to keep of ``model``, copied to the CPU; ``evaluator`` has its counts of the validation."""
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    @contextmanager
    def using(self, model: nn.Module) -> Iterator[None]:
        """Put another model, an average of the weights for example, in the model's place."""
        own, self.model = self.model, model
        try:
            yield
        finally:
            self.model = own


LEARNERS: Registry[Learner, None] = Registry("learner", "segmodels.training")

_LearnerClass = TypeVar("_LearnerClass", bound=type[Learner])


def register_learner(name: str) -> Callable[[_LearnerClass], _LearnerClass]:
    """Class decorator."""
    return LEARNERS.register(name, None)


@register_learner("supervised")
class SupervisedLearner(Learner):
    """Minimises the losses of the output and, weighted, of its auxiliary layers."""

    def forward(self, batch: Batch, turn: Turn) -> Losses:
        """See ``Learner``.

        Raises:
            InputError: in training, the output has nothing that the losses read.
        """
        images = Images(batch.images, self.normalised(batch.images))
        output = self.model(images.normalised, guide=batch.targets if self.training else None)
        (_, whole), *auxiliary = output.layers(self.auxiliary_weights)
        decay = 1 - turn.share_done if self.auxiliary_decay else 1.0
        weighted = [(decay * weight, layer) for weight, layer in auxiliary if decay * weight]
        terms, *further = self.criterion.terms_of_layers(
            [whole, *(layer for _, layer in weighted)], batch.targets, images, turn.soft_labels
        )
        if not terms:
            if self.training:
                raise self.criterion.nothing_read(whole)
            return Losses(None, {}, output)
        loss = self.criterion.total(terms)
        for (weight, _), of_layer in zip(weighted, further, strict=True):
            if of_layer:
                loss = loss + weight * self.criterion.total(of_layer)
        curves = self.criterion.curves(whole, batch.targets, terms)
        return Losses(loss, curves, None if self.training else output)

"""Training of promptable models by simulated users (Segment Anything, Kirillov 2023, 2304.02643, appendix A)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.device import places
from segmodels.losses.base import Images
from segmodels.prompts import Prompt, Prompts, corrected, first_click, prompts_of, random_box, random_click
from segmodels.tasks.targets import Segments, SegmentTargets, without_crowds
from segmodels.training.learner import Learner, Losses, Turn, register_learner

if TYPE_CHECKING:
    from segmodels.models.base import PromptableModel
    from segmodels.outputs import PromptedOutput

Masks = NDArray[np.bool_]


@register_learner("interactive")
class InteractiveLearner(Learner):
    """Every image is encoded once and its objects are answered several times (``PromptableModel.passes``): after a
    click on any pixel of each, or a box around it, then with one more click each time where the last mask is wrong. A
    model that takes masks gets the last one, too, and answers it once without a further click, at the end. The loss is
    the mean over the passes.

    In evaluation the first click is in the object's middle, as the task places it. What is drawn is a function of the
    batch and the share of training done: a resumed training draws the same.

    Attributes:
        most_objects: prompted at once in training, in all images of a batch; more are drawn from.
    """

    model: PromptableModel
    most_objects: ClassVar[int] = 64

    def forward(self, batch: Batch, turn: Turn) -> Losses:
        """See ``Learner``; the output is a network of the task, with the images encoded.

        Raises:
            InputError: the output has nothing that the losses read.
        """
        rng = np.random.default_rng([*batch.ids.tolist(), int(turn.share_done * 2**53)])
        images = Images(batch.images, self.normalised(batch.images))
        targets = self._prompted(batch.targets, rng)
        embedding = self.model.encode(images.normalised)
        masks = _on_host([own.masks & own.valid for own in targets.segments])
        first: Callable[[Masks], Prompt] = partial(self._drawn, rng=rng) if self.training else _middle
        prompts = [[first(mask) for mask in own] for own in masks]
        sizes = [tuple(own.valid.shape) for own in targets.segments]
        earlier = "masks" in self.model.takes
        losses: list[Tensor] = []
        curves: dict[str, list[Tensor]] = {}
        asked = prompts_of(prompts, sizes, batch.images)
        for left in reversed(range(self.model.passes)):
            answers = self.model.decode(embedding, asked)
            terms = self.criterion.terms(answers, targets, images)
            if not terms:
                raise self.criterion.nothing_read(answers)
            losses.append(self.criterion.total(terms))
            for name, value in self.criterion.curves(answers, targets, terms).items():
                curves.setdefault(name, []).append(value.detach())
            if left > 1 or (left and not earlier):
                found = _found(answers, targets.segments)
                prompts = [corrected(*own) for own in zip(prompts, masks, found, strict=True)]
                asked = prompts_of(prompts, sizes, batch.images)
            if earlier:
                asked = asked._replace(masks=tuple(logits.detach() for logits in answers.mask_logits))
        means = {name: torch.stack(values).mean() for name, values in curves.items()}
        return Losses(torch.stack(losses).mean(), means, None if self.training else self._network(embedding))

    def results(self, output: Any, batch: EvaluationBatch) -> list[Any]:
        """As the task measures: its own clicks."""
        return self.task.results(output, batch)

    def _prompted(self, targets: SegmentTargets, rng: np.random.Generator) -> SegmentTargets:
        """The objects to prompt: each a single one with a pixel that counts."""
        most = max(self.most_objects // len(targets.segments), 1) if self.training else None
        segments = []
        single = [without_crowds(own) for own in targets.segments]
        for own, seen in zip(single, places([(s.masks & s.valid).flatten(1).any(dim=1) for s in single]), strict=True):
            if most is not None and len(seen) > most:
                drawn = np.sort(rng.choice(len(seen), most, replace=False))
                seen = seen[torch.from_numpy(drawn).to(seen.device)]
            segments.append(Segments(own.labels[seen], own.masks[seen], own.valid))
        return targets._replace(segments=segments)

    def _drawn(self, mask: Masks, rng: np.random.Generator) -> Prompt:
        """The first prompt of an object: a click, or as often a box where the model takes one."""
        if "boxes" in self.model.takes and rng.random() < 0.5:
            return Prompt(box=random_box(mask, rng))
        return Prompt([random_click(mask, rng)])

    def _network(self, embedding: Any) -> Callable[..., Callable[..., PromptedOutput]]:
        """Answers prompts on the encoded images, in the precision of now."""
        device = self.mean.device.type
        precision = torch.autocast(
            device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )

        def answer(prompts: Prompts) -> PromptedOutput:
            with precision:
                return self.model.decode(embedding, prompts)

        return lambda _: answer  # the images are encoded


def _middle(mask: Masks) -> Prompt:
    return Prompt([first_click(mask)])


@torch.no_grad()
def _found(answers: PromptedOutput, segments: Sequence[Segments]) -> list[Masks]:
    """The masks ``(N, H, W)`` that were answered for each image, without ignored pixels."""
    found: list[Tensor] = []
    for logits, own in zip(answers.mask_logits, segments, strict=True):
        height, width = own.valid.shape
        masks = answers.at(logits, (height, width)) > 0 if len(logits) else torch.zeros_like(own.masks)
        found.append(masks & own.valid)
    return _on_host(found)


def _on_host(masks: Sequence[Tensor]) -> list[Masks]:
    """The same masks in main memory, by one transfer."""
    whole = torch.cat([own.flatten() for own in masks]).cpu()
    parts = whole.split([own.numel() for own in masks])
    return [part.view(own.shape).numpy() for part, own in zip(parts, masks, strict=True)]

"""Training of promptable models: one embedding, clicks on the errors of the masks so far, resumption bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from object_models import ClicksTiny, registered
from object_scenes import DIGITS, digit_scenes, write_scene_shards
from torch import Tensor

from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.data.batches import Batch, EvaluationBatch
from segmodels.data.shards import ShardReader
from segmodels.encoders.sam_vit import SamViT
from segmodels.losses import create_loss
from segmodels.models.sam import SAM
from segmodels.outputs import PromptedOutput
from segmodels.prompts import Prompts, box_around, first_click
from segmodels.tasks.registry import create_task
from segmodels.training.checkpoints import Checkpoints
from segmodels.training.fabric import Fabric
from segmodels.training.fit import Fit, Stopped
from segmodels.training.interactive import InteractiveLearner
from segmodels.training.learner import Turn
from segmodels.training.recipe import create_recipe
from segmodels.training.settings import TrainSettings
from segmodels.training.state import FitSettings

TASK = create_task("promptable", DIGITS)


class Recorded(ClicksTiny):
    """Keeps what it was asked and what it answered."""

    def __init__(self) -> None:
        super().__init__(in_channels=3)
        self.encoded = 0
        self.log: list[tuple[Prompts, PromptedOutput]] = []

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += 1
        return super().encode(images)

    def decode(self, embedding: Tensor, prompts: Prompts) -> PromptedOutput:
        answers = super().decode(embedding, prompts)
        self.log.append((prompts, answers))
        return answers


def new_learner() -> InteractiveLearner:
    torch.manual_seed(0)
    loss = create_loss({"prompted_masks": 1.0})
    return InteractiveLearner(Recorded(), TASK, loss, mean=(128.0,) * 3, std=(64.0,) * 3)


scenes = cache(digit_scenes)


def stacked(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def batch(annotations: list[Annotation] | None = None, first: int = 0, count: int = 2) -> Batch:
    """Digit scenes; other annotations may take the place of theirs."""
    images, own = scenes(first + count)
    ids = torch.arange(first, first + count)
    return Batch(stacked(images[first:]), TASK.targets(annotations or own[first:]), ids)


class Batches:
    """Six scenes, two at a time."""

    start = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.start = start_batch

    def close(self) -> None: ...

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Batch]:
        return (batch(first=2 * number) for number in range(self.start, len(self)))


def new_fit(
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
    precision: Any = "32-true",
    lr: float = 0.003,
    **settings: Any,
) -> Fit:
    """It is validated on the scenes that it learns."""
    learner = new_learner()
    images, annotations = scenes(6)
    names = [f"{i}" for i in range(6)]
    return Fit(
        Fabric(accelerator="cpu", devices=1, precision=precision),
        learner,
        torch.optim.AdamW(learner.model.parameters(), lr=lr),
        lambda _: 1.0,
        Batches(),
        [
            EvaluationBatch(stacked(images[i:j]), annotations[i:j], names[i:j], [*range(i, j)])
            for i, j in ((0, 4), (4, 6))
        ],
        settings=FitSettings(**settings),
        checkpoints=Checkpoints(folder),
        stop=stop,
    )


def recorded(fit: Fit) -> list[dict[str, float]]:
    epochs: list[dict[str, float]] = []
    fit.on_epoch = lambda _, metrics: epochs.append(metrics)
    return epochs


@pytest.mark.slow
def test_it_learns_to_answer_clicks_on_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClicksTiny, "passes", 3)
    fit = new_fit(tmp_path, lr=0.01, epochs=45, validate_every=15)
    epochs = recorded(fit)
    best = fit.run()
    losses, scores = [e["train/loss"] for e in epochs], [e["val/object_iou"] for e in epochs]
    assert losses[-1] < 0.85 * losses[0]
    assert epochs[-1]["val/loss"] < epochs[0]["val/loss"]
    assert scores[-1] > scores[0] + 0.2
    assert fit.progress.best_score == max(scores)
    assert best.keys() == fit.model.state_dict().keys()
    assert {"train/prompted_masks", "val/prompted_masks"} <= epochs[0].keys()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_left_at_any_batch_and_taken_up_it_ends_with_the_same_bits(tmp_path: Path, precision: str) -> None:
    whole = new_fit(tmp_path / "whole", precision=precision, epochs=2)
    expected_epochs, epochs = recorded(whole), []
    expected = whole.run()
    for stops in range(20):
        left = iter(range(1 + stops % 3))
        fit = new_fit(tmp_path / "parts", lambda left=left: next(left, None) is None, precision=precision, epochs=2)
        fit.on_epoch = lambda _, metrics: epochs.append(metrics)
        try:
            best = fit.run()
            break
        except Stopped:
            continue
    assert stops > 3
    assert all(torch.equal(value, best[name]) for name, value in expected.items())
    for name in expected_epochs[-1].keys() - {"images_per_second"}:
        assert epochs[-1][name] == expected_epochs[-1][name]


def test_images_are_encoded_once_and_each_further_click_lies_on_the_error_of_the_last_mask() -> None:
    learner, given = new_learner(), batch()
    learner(given, Turn(share_done=0.25))
    model = learner.model
    assert model.encoded == 1
    assert [prompts.points[0].shape[1] for prompts, _ in model.log] == list(range(1, 10))
    for image, segments in enumerate(given.targets.segments):
        assert len(segments.masks) >= 2
        for number, mask in enumerate(segments.masks):
            for passed, (prompts, _) in enumerate(model.log):
                x, y = prompts.points[image][number, passed].long().tolist()
                positive = bool(prompts.labels[image][number, passed])
                assert positive == bool(mask[y, x])
                if passed:
                    answer = model.log[passed - 1][1].mask_logits[image][number]
                    shown = torch.nn.functional.interpolate(
                        answer[None, None].detach(), size=mask.shape, mode="bilinear", align_corners=False
                    )[0, 0]
                    assert bool(shown[y, x] > 0) != positive
                    assert prompts.points[image][number, :passed].equal(model.log[passed - 1][0].points[image][number])


def test_what_is_drawn_depends_on_the_batch_and_the_share_done_alone() -> None:
    def first(given: Batch, share: float) -> Tensor:
        learner = new_learner()
        torch.manual_seed(np.random.default_rng().integers(1 << 30))
        learner(given, Turn(share_done=share))
        return torch.cat(learner.model.log[0][0].points)

    given = batch()
    assert first(given, 0.5).equal(first(given, 0.5))
    assert not first(given, 0.5).equal(first(given, 0.5 + 1e-9))
    assert not first(given, 0.5).equal(first(given._replace(ids=given.ids + 7), 0.5))


def test_in_evaluation_the_first_click_is_the_tasks_and_results_are_the_tasks_on_the_same_embedding() -> None:
    learner, given = new_learner().eval(), batch()
    annotations = digit_scenes(2)[1]
    with torch.no_grad():
        losses = learner(given, Turn())
        loaded = EvaluationBatch(given.images, annotations, ["a", "b"], [0, 1])
        results = learner.results(losses.output, loaded)
        expected = TASK.results(lambda images: learner.model(learner.normalised(images)), loaded)
    place = learner.model.log[0][0].points[0][0, 0].tolist()
    assert tuple(place) == first_click(given.targets.segments[0].masks[0].numpy())[:2]
    assert losses.loss.isfinite()
    assert [result.masks for result in results] == [result.masks for result in expected]
    assert learner.model.encoded == 2  # once by the learner, once by what is expected
    assert learner.train()(given, Turn()).output is None


class Refining(Recorded):
    """Takes boxes and masks, too, and makes little of them."""

    takes = frozenset({"boxes", "masks"})
    passes = 4

    def decode(self, embedding: Tensor, prompts: Prompts) -> PromptedOutput:
        points = [own if own.shape[1] else own.new_full((len(own), 1, 2), 32.0) for own in prompts.points]
        kinds = [torch.ones(own.shape[:2], dtype=torch.int64) for own in points]
        answers = ClicksTiny.decode(self, embedding, Prompts(tuple(points), tuple(kinds)))
        self.log.append((prompts, answers))
        return answers


def test_boxes_begin_as_often_as_clicks_and_the_last_mask_is_a_prompt_that_the_last_pass_refines() -> None:
    learner = new_learner()
    learner.model = Refining()
    boxed, clicked = 0, 0
    for step in range(4):
        learner.model.log.clear()
        given = batch(first=2 * step)
        learner(given, Turn(share_done=0.25))
        first, second, third, last = (prompts for prompts, _ in learner.model.log)
        answers = [answer for _, answer in learner.model.log]
        assert first.masks is None
        for asked, before in zip((second, third, last), answers, strict=False):
            assert all(map(torch.equal, asked.masks, before.mask_logits))
            assert not any(own.requires_grad for own in asked.masks)
        assert all(map(torch.equal, last.points, third.points))  # no further click
        assert third.points[0].shape[1] == second.points[0].shape[1] + 1
        for image, own in enumerate(given.targets.segments):
            boxes = first.boxes[image] if first.boxes else torch.full((len(own.masks), 4), float("nan"))
            for mask, box, labels in zip(own.masks, boxes, first.labels[image], strict=True):
                boxed, clicked = boxed + int(not box.isnan().any()), clicked + int((labels == 1).any())
                assert box.isnan().any() == (labels == 1).any()
                if not box.isnan().any():
                    around = box.new_tensor(box_around(mask.numpy()))
                    assert (box - around).abs().max() <= 0.4 * (around[2:] - around[:2]).max()
    assert min(boxed, clicked) > 0.25 * (boxed + clicked)


def test_segment_anything_learns_clicks_boxes_and_masks() -> None:
    learner = new_learner()
    encoder = SamViT(48, 2, 3, (1,), image_size=64, window=2, out_channels=32)
    learner.model = SAM(encoder, hidden=64, passes=3)
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        loss = learner(batch(), Turn(share_done=0.25)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_batch_without_objects_gives_zero_and_every_parameter_a_gradient() -> None:
    learner = new_learner()
    empty = Annotation.of_classes(np.zeros((64, 64), np.uint8))
    losses = learner(batch([empty, empty]), Turn())
    losses.loss.backward()
    assert losses.loss == 0
    assert [name for name, parameter in learner.model.named_parameters() if parameter.grad is None] == []


def test_crowds_and_ignored_objects_are_not_prompted_and_many_objects_are_drawn_from() -> None:
    masks = np.zeros((4, 64, 64), bool)
    masks[0, :8], masks[1, 10:20], masks[2, 30:40], masks[3, 50:] = True, True, True, True
    classes = np.zeros((64, 64), np.uint8)
    classes[30:40] = 255  # the object there makes it valid again
    layers = pack_layers(list(masks), classes.shape)
    rows = rows_of(layers, [Segment(1, 1), Segment(2, 2), Segment(3, 3), Segment(4, 4, crowd=True)])
    learner, given = new_learner(), batch([Annotation(classes, layers, rows)], count=1)
    hidden = given.targets.segments[0]
    hidden.valid[30:40] = False
    learner(given, Turn())
    assert len(learner.model.log[0][0].points[0]) == 2
    learner.most_objects = 1
    drawn = []
    for share in np.linspace(0, 1, 12):
        learner.model.log.clear()
        learner(given, Turn(share_done=float(share)))
        ((_, y),) = learner.model.log[0][0].points[0][:, 0].tolist()
        drawn.append(y < 9)
    assert len(set(drawn)) == 2


def test_the_card_names_the_learner_and_the_dataset_has_what_it_needs(tmp_path: Path) -> None:
    folder = write_scene_shards(tmp_path / "shards", "digest")
    readers = [ShardReader(folder, split) for split in ("train", "val")]
    with registered():
        recipe = create_recipe(TrainSettings(model="clicks_tiny", accelerator="cpu"), *readers)
    assert isinstance(recipe.learner, InteractiveLearner)
    assert recipe.task.name == "promptable"
    assert recipe.learner.criterion.weights == {"prompted_masks": 1.0}

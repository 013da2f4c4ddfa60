"""The promptable task: clicks are placed by the annotation, and a small model is trained to answer them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.annotations import Annotation, Segment, pack_layers, rows_of
from segmodels.data.batches import EvaluationBatch
from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.outputs import PromptedOutput
from segmodels.prompts import Prompts, first_click, next_click
from segmodels.tasks.promptable import PromptableEvaluator, PromptableSettings
from segmodels.tasks.registry import create_task, task_class

LABELS = LabelMap(("ground", "cat", "dog"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), {i: i for i in range(3)}, things={1, 2})


def annotation() -> Annotation:
    """A cat and a dog that touch, and a crowd of dogs."""
    masks = np.zeros((3, 24, 36), bool)
    masks[0, 4:14, 4:12] = masks[1, 4:18, 12:24] = masks[2, 20:, :] = True
    classes = np.zeros((24, 36), np.uint8)
    for mask, label in zip(masks, (1, 2, 2), strict=True):
        classes[mask] = label
    layers = pack_layers(list(masks), classes.shape)
    return Annotation(classes, layers, rows_of(layers, [Segment(1, 1), Segment(2, 2), Segment(3, 2, crowd=True)]))


def batch(scale: int = 1) -> EvaluationBatch:
    """Images ``scale`` times as small as their annotations, one of them without objects."""
    empty = Annotation.of_classes(np.zeros((24, 36), np.uint8))
    images = torch.zeros(2, 3, 24 // scale, 36 // scale)
    return EvaluationBatch(images, [annotation(), empty], ["b", "a"], [0, 1])


def oracle(scale: int, log: list[Prompts]) -> Callable[..., Any]:
    """Answers a first click with the object under it, less its left column, and every further one without error."""
    truth = annotation().masks()

    def network(_: Tensor, guide: Prompts) -> PromptedOutput:
        log.append(guide)
        answers = []
        for points in guide.points:
            own = np.zeros((len(points), *truth.shape[1:]), np.float32)
            for row, clicks in zip(own, points.numpy(), strict=True):
                x, y = (clicks[0] * scale).astype(int)
                mask = truth[truth[:, y, x]][0].copy()
                if len(clicks) == 1:
                    mask[:, np.flatnonzero(mask.any(0))[0]] = False
                row[:] = np.where(mask, 5.0, -5.0)
            answers.append(torch.from_numpy(own))
        return PromptedOutput(tuple(answers), tuple(torch.ones(len(each)) for each in answers))

    return network


@pytest.mark.parametrize("scale", [1, 2])
def test_each_object_is_clicked_in_its_middle_and_its_mask_counted(scale: int) -> None:
    log: list[Prompts] = []
    task = create_task("promptable", LABELS)
    results = task.results(oracle(scale, log), batch(scale))
    (prompts,) = log
    assert [len(points) for points in prompts.points] == [2, 0]  # crowds are not prompted
    assert all((labels == 1).all() for labels in prompts.labels)
    middle = prompts.points[0][0, 0] * scale
    assert 7 <= middle[0] <= 9
    assert 7 <= middle[1] <= 11
    assert results[0].labels.tolist() == [1, 2]
    evaluator = task.evaluator()
    evaluator.update(results, batch().annotations, batch().ids)
    expected = [7 / 8, 11 / 12]
    assert evaluator.scores() == {"object_iou": pytest.approx(np.mean(expected)), "images": 2, "objects": 2}
    assert [row["iou"] for row in evaluator.per_class()] == pytest.approx(expected)
    assert evaluator.images()["score"].to_pylist() == [None, pytest.approx(np.mean(expected))]
    assert evaluator.confusion()[1].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_further_clicks_correct_the_mask_so_far() -> None:
    log: list[Prompts] = []
    task = create_task("promptable", LABELS, {"clicks": 3})
    results = task.results(oracle(1, log), batch())
    assert [prompts.points[0].shape[1] for prompts in log] == [1, 2, 3]
    assert int(log[1].points[0][0, 1, 0]) == 4  # in the column that was missing
    assert log[2].points[0][0, 2].equal(log[2].points[0][0, 1])  # nothing was wrong any more
    evaluator = task.evaluator()
    evaluator.update(results, batch().annotations, batch().ids)
    assert evaluator.scores()["object_iou"] == 1


def test_clicks_lie_on_what_is_missing_or_beside_the_object() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    assert first_click(mask) == (4.5, 4.5, 1)
    surplus = mask.copy()
    surplus[:, 8] = True
    click = next_click(mask, surplus)
    assert click is not None
    assert (click.x, click.label) == (8.5, 0)
    assert next_click(mask, mask) is None
    assert first_click(np.ones((3, 5), bool))[1:] == (1.5, 1)  # the border of the image is a border of the object


def test_counts_add_up_are_resampled_and_are_written_without_loss(tmp_path: Path) -> None:
    task = create_task("promptable", LABELS)
    results = task.results(oracle(1, []), batch())
    first, second = task.evaluator(), task.evaluator()
    first.update(results[:1], batch().annotations[:1], ["b"])
    second.update(results[1:], batch().annotations[1:], ["a"])
    total = second + first
    np.testing.assert_allclose(
        total.resampled("object_iou", np.array([[1, 1], [0, 2], [2, 0]])), [total.scores()["object_iou"]] * 2 + [np.nan]
    )
    total.write(tmp_path)
    again = PromptableEvaluator.read(tmp_path)
    assert again.scores() == total.scores()
    assert again.images().equals(total.images())
    assert len(total.figures()) == 2
    with pytest.raises(InputError, match="unknown score of prompted objects"):
        total.resampled("iou", np.ones((1, 2)))


def test_mistakes_are_refused() -> None:
    task = create_task("promptable", LABELS)
    with pytest.raises(InputError, match="got images alone, expected clicks too"):
        task.predict(oracle(1, []), torch.zeros(1, 3, 4, 4), [(4, 4)])
    with pytest.raises(InputError, match="clicks is 0, expected a whole number from 1 to 1000"):
        PromptableSettings(clicks=0)
    evaluator = task.evaluator()
    with pytest.raises(InputError, match="0 masks were predicted for 2 objects"):
        evaluator.update(task.results(oracle(1, []), batch())[1:], [annotation()], ["a"])


class ClickModel(torch.nn.Module):
    """The mask is where the image has the colour under the click."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(1.0))
        self.margin = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, images: Tensor, guide: Prompts) -> PromptedOutput:
        masks = []
        for image, points in zip(images, guide.points, strict=True):
            x, y = points[:, 0].long().unbind(1)
            apart = (image[None] - image[:, y, x].T[..., None, None]).square().sum(1)
            masks.append(self.margin - self.sharpness * apart)
        return PromptedOutput(tuple(masks), tuple(torch.full((len(own),), 0.5) for own in masks))


def test_a_small_model_learns_to_answer_clicks() -> None:
    colours = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    images = colours[torch.from_numpy(annotation().classes).long()].permute(2, 0, 1)[None]
    task = create_task("promptable", LABELS)
    targets = task.targets([annotation()])
    assert targets.segments[0].labels.tolist() == [0, 0, 0]
    model = ClickModel()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    clicks = torch.tensor([[[8.0, 8.0]], [[18.0, 10.0]]])
    truth = targets.segments[0].masks[:2].float()
    outside = ~targets.segments[0].masks[2]
    for _ in range(60):
        (_, output), *_ = model(images, Prompts((clicks,), (torch.ones(2, 1),))).layers(())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(output.mask_logits[0], truth, reduction="none")
        optimizer.zero_grad()
        (loss * outside).mean().backward()
        optimizer.step()
    evaluator = task.evaluator()
    loaded = EvaluationBatch(images, [annotation()], ["a"], [0])
    evaluator.update(task.results(model, loaded), loaded.annotations, loaded.ids)
    assert evaluator.scores()["object_iou"] > 0.5
    assert evaluator.per_class()[0]["iou"] == 1


def test_the_task_needs_objects() -> None:
    task = task_class("promptable")
    assert task.supports(LABELS, True)
    assert not task.supports(LABELS, False)
    assert task.model_arguments(LABELS) == {"num_classes": 1}

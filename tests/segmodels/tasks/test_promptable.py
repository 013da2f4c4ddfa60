"""The promptable task: clicks are placed by the annotation, and a small model is trained to answer them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from segmodels.object_reading import Frame
from segmodels.outputs import PromptedOutput
from segmodels.prompts import (
    NO_CLICK,
    Click,
    Prompt,
    Prompts,
    check_prompt,
    first_click,
    next_click,
    parse_prompts,
    prompts_of,
)
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

    def answer(guide: Prompts) -> PromptedOutput:
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

    return lambda _: answer


@pytest.mark.parametrize("scale", [1, 2])
def test_each_object_is_clicked_in_its_middle_and_its_mask_counted(scale: int) -> None:
    log: list[Prompts] = []
    task = create_task("promptable", LABELS)
    results = task.results(oracle(scale, log), batch(scale))
    prompts = log[0]
    assert [len(points) for points in prompts.points] == [2, 0]  # crowds are not prompted
    assert all((labels == 1).all() for labels in prompts.labels)
    middle = prompts.points[0][0, 0] * scale
    assert 7 <= middle[0] <= 9
    assert 7 <= middle[1] <= 11
    assert results[0].labels.tolist() == [1, 2]
    evaluator = task.evaluator()
    evaluator.update(results, batch().annotations, batch().ids)
    expected = [7 / 8, 11 / 12]
    scores = {"object_iou": pytest.approx(np.mean(expected)), "object_iou_3": 1.0, "object_iou_5": 1.0}
    assert evaluator.scores() == {**scores, "images": 2, "objects": 2}
    assert [row["iou"] for row in evaluator.per_class()] == pytest.approx(expected)
    assert [row["iou_3"] for row in evaluator.per_class()] == [1, 1]
    assert evaluator.images()["score"].to_pylist() == [None, pytest.approx(np.mean(expected))]
    assert evaluator.confusion()[1].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_further_clicks_correct_the_mask_so_far() -> None:
    log: list[Prompts] = []
    task = create_task("promptable", LABELS)
    results = task.results(oracle(1, log), batch())
    assert [prompts.points[0].shape[1] for prompts in log] == [1, 2, 3, 4, 5]
    assert int(log[1].points[0][0, 1, 0]) == 4  # in the column that was missing
    assert log[2].points[0][0, 2].equal(log[2].points[0][0, 1])  # nothing was wrong any more
    assert log[0].masks is None
    assert all((logits > 0).any() for logits in log[1].masks[0])  # the mask so far is a prompt, too
    np.testing.assert_array_equal(results[0].later[0].mask(0), annotation().masks()[0])
    assert not results[0].mask(0)[:, 4].any()


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
    with pytest.raises(InputError, match="grid is 0, expected a whole number from 1 to 256"):
        PromptableSettings(grid=0)
    evaluator = task.evaluator()
    with pytest.raises(InputError, match="0 masks were predicted for 2 objects"):
        evaluator.update(task.results(oracle(1, []), batch())[1:], [annotation()], ["a"])


def test_without_prompts_everything_is_found_once_with_its_quality_as_score() -> None:
    """The answers overlap: each click of the grid that lies on an object gives it again."""
    truth = annotation().masks()[:2]

    def answer(prompts: Prompts) -> PromptedOutput:
        (points,) = prompts.points
        masks, quality = torch.full((len(points), *truth.shape[1:]), -9.0), torch.full((len(points),), 0.5)
        for number, (x, y) in enumerate(points[:, 0].long().tolist()):
            for place, mask in enumerate(truth):
                if mask[min(y, 23), min(x, 35)]:
                    masks[number][torch.from_numpy(mask)] = 9.0
                    quality[number] = 0.9 + 0.05 * place + x * 1e-4
        return PromptedOutput((masks,), (quality,))

    task = create_task("promptable", LABELS, {"grid": 9})
    (found,) = task.predict(lambda _: answer, torch.zeros(1, 3, 24, 36), [(24, 36)])
    assert len(found) == 2
    np.testing.assert_array_equal(np.stack([found.mask(0), found.mask(1)]), truth[::-1])
    assert found.scores[0] > found.scores[1] > 0.9
    assert task.result_labels.classes[found.labels[0]] == "object"
    strict = create_task("promptable", LABELS, {"grid": 9, "quality": 0.945})
    assert len(strict.predict(lambda _: answer, torch.zeros(1, 3, 24, 36), [(24, 36)])[0]) == 1
    assert found.sure == 0  # ``quality`` alone decides
    unsure = PromptedOutput((torch.where(torch.from_numpy(truth), 0.5, -9.0),), (torch.ones(2),))
    assert len(task.predict(lambda _: lambda _: unsure, torch.zeros(1, 3, 24, 36), [(24, 36)])[0]) == 0  # unstable


def test_many_objects_are_answered_a_part_at_a_time_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmodels.tasks.promptable.AT_ONCE", 4)
    log: list[Prompts] = []

    def answer(prompts: Prompts) -> PromptedOutput:
        log.append(prompts)
        marks = [torch.arange(8.0) == own[:, :1, 0] for own in prompts.points]
        return PromptedOutput(
            tuple((own[:, None] * 2.0) - 1 for own in marks), tuple(map(torch.zeros, map(len, marks)))
        )

    task = create_task("promptable", LABELS)
    prompts = [[Prompt([Click(x, 0, 1)]) for x in range(5)], [Prompt([Click(7, 0, 1)])]]
    images = torch.zeros(2, 3, 1, 8)
    results = task.predict(lambda _: answer, images, [(1, 8)] * 2, prompts_of(prompts, [(1, 8)] * 2, images))
    assert [len(own.points[0]) for own in log] == [2, 2, 1]
    assert [result.boxes[:, 0].tolist() for result in results] == [[0, 1, 2, 3, 4], [7]]
    assert [len(result.regions()) for result in results] == [5, 1]  # whatever quality the model estimates
    assert len(results[0].annotation(task.result_labels).segments) == 5


@pytest.mark.parametrize("frame", [None, Frame(32, 32, 24)])
def test_an_image_without_prompts_beside_others_has_no_objects(frame: Frame | None) -> None:
    output = PromptedOutput((torch.ones(0, 8, 6), torch.ones(2, 8, 6)), (torch.ones(0), torch.ones(2)), frame=frame)
    none, some = output.objects([(16, 12), (16, 12)])
    assert (len(none), len(some)) == (0, 2)
    assert some.mask(1).all()


@pytest.mark.parametrize(
    ("points", "boxes", "message"),
    [
        (
            ["40,8"],
            [],
            r"point \(40, 8\) lies outside, expected one inside the image of 36 x 24 pixels",
        ),
        (["4,8,2"], [], r"point \(4, 8\) has the label 2, expected 1 \(on the object\) or 0"),
        (["4,8,0.7"], [], r"point \(4, 8\) has the label 0.7, expected 1"),
        (["4"], [], "point '4' cannot be read, expected x,y on the object or x,y,0 beside it"),
        (["a,b"], [], "point 'a,b' cannot be read"),
        (["nan,1"], [], "point 'nan,1' cannot be read"),
        ([" "], [], "points of an object are empty, expected x,y: 120,80"),
        ([], ["9,2,4,8"], r"box \(9, 2, 4, 8\) has no area, expected left less than right and top less than bottom"),
        ([], ["9,2,40,8"], r"box \(9, 2, 40, 8\) lies outside, expected one inside the image of 36 x 24 pixels"),
        ([], ["9,2,40"], "box '9,2,40' cannot be read, expected left,top,right,bottom, in pixels"),
        (["4,8"], ["1,1,2,2", "3,3,5,5"], "1 objects have points and 2 have boxes, expected as many of both"),
    ],
)
def test_prompts_that_cannot_be_meant_are_named(points: list[str], boxes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _ = [check_prompt(prompt, (24, 36)) for prompt in parse_prompts(points, boxes)]


def test_prompts_are_read_from_text_and_become_pixels_of_the_models_input() -> None:
    first, second = parse_prompts(["10,8;4,4,0", "20,10"], ["1,2,30,20", "2,2,9,9"])
    assert first == Prompt([Click(10, 8, 1), Click(4, 4, 0)], (1, 2, 30, 20))
    clicks, box = parse_prompts(["10,8;4,4,0"], []), parse_prompts([], ["1,2,30,20"])
    prompts = prompts_of([clicks + box, [second]], [(24, 36), (24, 36)], torch.zeros(2, 3, 12, 72))
    assert prompts.points[0].tolist() == [[[20, 4], [8, 2]], [[0, 0], [0, 0]]]
    assert prompts.labels[0].tolist() == [[1, 0], [NO_CLICK, NO_CLICK]]
    assert prompts.labels[1].tolist() == [[1, NO_CLICK]]
    assert prompts.boxes is not None
    assert prompts.boxes[0].isnan().tolist() == [[True] * 4, [False] * 4]
    assert prompts.boxes[0][1].tolist() == [2, 1, 60, 10]
    with pytest.raises(InputError, match="a prompt has neither clicks nor a box"):
        check_prompt(Prompt(), (24, 36))


class ClickModel(torch.nn.Module):
    """The mask is where the image has the colour under the click."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(1.0))
        self.margin = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, images: Tensor, guide: Prompts | None = None) -> Any:
        if guide is None:
            return partial(self.forward, images)
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

"""The loss of answers to prompts: its terms, ignored pixels, and images without objects."""

from __future__ import annotations

import pytest
import torch

from segmodels.errors import InputError
from segmodels.losses import create_loss
from segmodels.losses.prompted_masks import PromptedMasksLoss
from segmodels.outputs import Choices, PixelOutput, PromptedOutput
from segmodels.tasks.targets import Segments, SegmentTargets


def segments(objects: int = 2, ignored: int = 0) -> Segments:
    """Objects that fill the upper rows of 4 x 6 pixels, each one row more; the last columns are ignored."""
    masks, valid = torch.zeros(objects, 4, 6, dtype=torch.bool), torch.ones(4, 6, dtype=torch.bool)
    for number, mask in enumerate(masks, start=1):
        mask[:number] = True
    valid[:, 6 - ignored :] = False
    return Segments(torch.zeros(objects, dtype=torch.int64), masks, valid)


def answers(*masks: torch.Tensor, quality: float = 0.5) -> PromptedOutput:
    return PromptedOutput(masks, tuple(torch.full((len(own),), quality) for own in masks))


def test_the_terms_are_those_of_the_formulas() -> None:
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    truth = segments().masks.double()
    p = logits.double().sigmoid()
    right = torch.where(truth == 1, p, 1 - p)
    alpha = torch.where(truth == 1, 0.25, 0.75)
    focal = (-alpha * (1 - right) ** 2 * right.log()).mean((1, 2))
    dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    found = logits > 0
    iou = (found & (truth == 1)).sum((1, 2)) / (found | (truth == 1)).sum((1, 2))
    given = answers(logits, quality=0.5)
    for weights, term in (((1, 0, 0), focal), ((0, 1, 0), dice), ((0, 0, 1), (0.5 - iou) ** 2)):
        torch.testing.assert_close(PromptedMasksLoss(*weights)(given, [segments()]), term.mean().float())
    whole = (20 * focal + dice + (0.5 - iou) ** 2).mean().float()
    torch.testing.assert_close(PromptedMasksLoss()(given, [segments()]), whole)


def test_a_right_answer_costs_nothing_at_any_resolution() -> None:
    right = torch.where(segments().masks, 60.0, -60.0)
    assert PromptedMasksLoss()(answers(right, quality=1.0), [segments()]) < 1e-5
    assert PromptedMasksLoss()(answers(right, quality=0.0), [segments()]) == pytest.approx(1.0)
    whole = segments()._replace(masks=torch.ones(2, 4, 6, dtype=torch.bool))
    assert PromptedMasksLoss()(answers(torch.full((2, 2, 3), 60.0), quality=1.0), [whole]) < 1e-5


def test_it_is_a_mean_over_objects_and_images_without_any_do_not_move_it() -> None:
    logits = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    loss = PromptedMasksLoss()
    each = [
        loss(answers(logits[i : i + 1]), [segments(i + 1)._replace(masks=segments(3).masks[i:][:1])]) for i in (0, 1, 2)
    ]
    together = loss(
        answers(logits[:1], torch.zeros(0, 4, 6), logits[1:]),
        [segments(1), segments(0), segments(3)._replace(masks=segments(3).masks[1:])],
    )
    torch.testing.assert_close(together, torch.stack(each).mean())


def test_ignored_pixels_change_neither_value_nor_gradient() -> None:
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = logits.detach().clone()
    other[:, :, 4:] = 9.0
    other.requires_grad_()
    values = [PromptedMasksLoss()(answers(each), [segments(ignored=2)]) for each in (logits, other)]
    assert values[0] == values[1]
    gradients = [torch.autograd.grad(value, each)[0] for value, each in zip(values, (logits, other), strict=True)]
    assert torch.equal(*gradients)
    assert not gradients[0][:, :, 4:].any()
    cut = Segments(segments().labels, segments().masks[:, :, :4], segments().valid[:, :4])
    torch.testing.assert_close(values[0], PromptedMasksLoss()(answers(logits[:, :, :4]), [cut]))


def test_no_objects_give_zero_with_a_gradient_and_half_precision_is_computed_in_full() -> None:
    empty = torch.zeros(0, 4, 6, requires_grad=True)
    value = PromptedMasksLoss()(answers(empty), [segments(0)])
    value.backward()
    assert value == 0
    assert empty.grad is not None
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    half = PromptedMasksLoss()(answers(logits), [segments()])
    assert half.dtype == torch.float32
    assert half == PromptedMasksLoss()(answers(logits.float()), [segments()])


def test_it_reads_answers_alone_and_needs_one_for_each_object() -> None:
    loss = create_loss({"prompted_masks": {"weight": 2.0, "dice_weight": 3.0}})
    targets = SegmentTargets([segments()], torch.zeros(1, 4, 6, dtype=torch.uint8))
    given = answers(torch.zeros(2, 4, 6))
    torch.testing.assert_close(loss(given, targets), 2 * PromptedMasksLoss(dice_weight=3.0)(given, targets.segments))
    assert loss.terms(PixelOutput(torch.zeros(1, 2, 4, 6)), targets) == {}
    with pytest.raises(InputError, match=r"images have \[1\] masks for \[2\] objects, expected one each"):
        loss(answers(torch.zeros(1, 4, 6)), targets)


def test_of_several_masks_the_best_allowed_one_counts_and_the_qualities_of_all() -> None:
    right = torch.where(segments().masks, 60.0, -60.0)
    masks = torch.stack([right, -right, torch.zeros(2, 4, 6)], dim=1)
    quality = torch.tensor([[0.9, 0.2, 0.4], [0.9, 0.0, 0.0]], requires_grad=True)
    allowed = torch.tensor([[True, True, False], [False, True, True]])
    choices = Choices(masks.requires_grad_(), quality, allowed)
    given = PromptedOutput((right,), (quality[:, 0],), (choices,))
    found = PromptedMasksLoss()(given, [segments()])
    other = PromptedMasksLoss(quality_weight=0)
    # of the second object the zeros are better than the opposite
    expected = (other(answers(right[:1]), [cut(0)]) + other(answers(torch.zeros(1, 4, 6)), [cut(1)])) / 2
    squares = torch.tensor([(0.1**2 + 0.2**2) / 2, 0.0])  # opposite masks have the IoU 0, as have masks of zeros
    torch.testing.assert_close(found, expected + squares.mean())
    found.backward()
    assert masks.grad is not None
    assert (masks.grad.abs() > 1e-6).flatten(2).any(dim=2).tolist() == [[False, False, False], [False, False, True]]


def cut(number: int) -> Segments:
    """One of the two objects."""
    return segments()._replace(masks=segments().masks[number : number + 1], labels=torch.zeros(1, dtype=torch.int64))

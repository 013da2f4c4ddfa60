"""What every loss of logits promises, whatever its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import CASES, Case, one_hot, perfect_scores, regions, scores, value_and_gradient

from segmodels import create_loss
from segmodels.errors import InputError

every_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
SIZES = {2: (2, 12, 16), 3: (2, 8, 8, 8)}


@every_case
@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), share=st.floats(0.05, 0.9))
def test_ignored_pixels_change_neither_value_nor_gradient(case: Case, seed: int, share: float) -> None:
    loss, target = case.build(), regions(seed, case.classes)
    logits = scores(seed, target, case.classes)
    generator = torch.Generator().manual_seed(seed + 1)
    ignored = torch.rand(target.shape, generator=generator) < share
    target = target.masked_fill(ignored, 255)
    other = torch.where(ignored[:, None], 30 * torch.randn(logits.shape, generator=generator), logits)
    value, gradient = value_and_gradient(loss, logits, target)
    other_value, other_gradient = value_and_gradient(loss, other, target)
    assert value == other_value
    valid = (~ignored)[:, None].expand_as(logits)
    assert torch.equal(gradient[valid], other_gradient[valid])
    assert not gradient[~valid].any()
    assert not other_gradient[~valid].any()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name != "ms_ssim"], ids=lambda case: case.id
)  # whose windows see the zeros there
def test_an_ignored_strip_is_as_if_cut_off(case: Case) -> None:
    target = regions(3, case.classes)
    logits = scores(3, target, case.classes)
    cut = value_and_gradient(case.build(), logits[..., :12], target[..., :12])
    target[..., 12:] = 255
    value, gradient = value_and_gradient(case.build(), logits, target)
    torch.testing.assert_close(value, cut[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient[..., :12], cut[1], rtol=1e-4, atol=1e-8)


@every_case
@pytest.mark.parametrize("axes", [2, 3])
def test_a_batch_of_ignored_pixels_gives_zero_with_zero_gradient(case: Case, axes: int) -> None:
    target = regions(0, case.classes, SIZES[axes])
    value, gradient = value_and_gradient(case.build(), scores(0, target, case.classes), torch.full_like(target, 255))
    assert value == 0
    assert not gradient.any()


@every_case
def test_a_batch_of_no_images_gives_zero(case: Case) -> None:
    target = regions(4, case.classes)
    logits = scores(4, target, case.classes)[:0].requires_grad_()
    value = case.build()(logits, target[:0])
    value.backward()
    assert value == 0
    assert logits.grad is not None


@every_case
def test_an_image_of_ignored_pixels_does_not_move_the_others(case: Case) -> None:
    target = regions(1, case.classes)
    logits = scores(1, target, case.classes)
    alone = case.build()(logits[:1], target[:1])
    target[1] = 255
    torch.testing.assert_close(case.build()(logits, target), alone, rtol=1e-5, atol=1e-7)


@every_case
def test_a_class_absent_from_the_batch_is_finite_and_perfect_stays_best(case: Case) -> None:
    target = regions(2, case.classes)
    target[target == case.classes - 1] = 0
    value, gradient = value_and_gradient(case.build(), scores(2, target, case.classes), target)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()
    perfect, slope = value_and_gradient(case.build(), perfect_scores(target, case.classes), target)
    assert perfect < value or "label_smoothing" in case.options  # whose minimum is not at certainty
    assert slope.isfinite().all()


@every_case
def test_the_perfect_prediction_is_the_minimum(case: Case) -> None:
    loss, target = case.build(), regions(4, case.classes)
    perfect = float(loss(perfect_scores(target, case.classes), target))
    if case.name != "boundary" and "label_smoothing" not in case.options:
        assert perfect == pytest.approx(0, abs=1e-6)
    if "label_smoothing" in case.options:  # whose minimum is at probability 1 - ε + ε/C
        best = one_hot(target, 4) * 0.9 + 0.025
        perfect = float(loss(best.log(), target))
    for seed in range(10):
        for right in (-1.0, 0.0, 2.0, 5.0):
            assert perfect <= float(loss(scores(seed, target, case.classes, right), target)) + 1e-6


@every_case
def test_the_gradient_is_the_derivative(case: Case) -> None:
    shape, small = ((1, 6, 6), {"scales": 1}) if case.name == "ms_ssim" else ((2, 4, 4), {})
    target = torch.randint(0, case.classes, shape, generator=torch.Generator().manual_seed(5))
    target[0, 0, :2] = 255
    logits = (1.5 * scores(5, target, case.classes)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: case.build(**small)(x, target), (logits,), eps=1e-6, atol=1e-6)


@every_case
def test_the_order_of_images_does_not_matter(case: Case) -> None:
    target = regions(6, case.classes, (3, 12, 16))
    logits, order = scores(6, target, case.classes), torch.tensor([2, 0, 1])
    value, gradient = value_and_gradient(case.build(), logits, target)
    moved, moved_gradient = value_and_gradient(case.build(), logits[order], target[order])
    torch.testing.assert_close(moved, value, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-4, atol=1e-8)


SYMMETRIC = [
    case
    for case in CASES
    if "class_weights" not in case.options
    and case.options.get("include_background", case.name != "boundary")
    and case.name not in ("border_weighted_cross_entropy", "lovasz_hinge")
]


@pytest.mark.parametrize("case", SYMMETRIC, ids=[case.id for case in SYMMETRIC])
def test_the_order_of_classes_does_not_matter(case: Case) -> None:
    target = regions(7, case.classes)
    logits, order = (
        scores(7, target, case.classes),
        torch.randperm(case.classes, generator=torch.Generator().manual_seed(7)),
    )
    names = torch.empty_like(order).scatter_(0, order, torch.arange(case.classes))
    torch.testing.assert_close(
        case.build()(logits[:, order], names[target]), case.build()(logits, target), rtol=1e-5, atol=1e-7
    )


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_50_are_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    target = regions(8, case.classes)
    target[0, 0] = 255
    logits = (50 * scores(8, target, case.classes).sign()).to(dtype)
    value, gradient = value_and_gradient(case.build(), logits, target)
    with torch.autocast("cpu", dtype=dtype):
        within = value_and_gradient(case.build(), logits, target)
    expected, expected_gradient = value_and_gradient(case.build(), logits.float(), target)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert value == expected == within[0]
    assert torch.equal(gradient, expected_gradient.to(dtype))
    assert torch.equal(gradient, within[1])


@every_case
def test_autocast_does_not_round_float32_logits(case: Case) -> None:
    target = regions(9, case.classes)
    logits = scores(9, target, case.classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = value_and_gradient(case.build(), logits, target)
    without = value_and_gradient(case.build(), logits, target)
    assert within[0] == without[0]
    assert torch.equal(within[1], without[1])


@every_case
def test_the_same_input_gives_the_same_bits(case: Case) -> None:
    target = regions(10, case.classes)
    logits = scores(10, target, case.classes)
    first, second = (value_and_gradient(case.build(), logits, target) for _ in range(2))
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@every_case
def test_memory_order_does_not_matter(case: Case) -> None:
    target = regions(11, case.classes)
    logits = scores(11, target, case.classes)
    value, gradient = value_and_gradient(case.build(), logits, target)
    other, other_gradient = value_and_gradient(
        case.build(), logits.contiguous(memory_format=torch.channels_last), target
    )
    torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-5, atol=1e-9)


@every_case
def test_volumes_work_and_a_flat_volume_is_a_picture(case: Case) -> None:
    volume = regions(12, case.classes, SIZES[3])
    value, gradient = value_and_gradient(case.build(), scores(12, volume, case.classes), volume)
    assert value.isfinite()
    assert gradient.any()
    if case.name != "ms_ssim":  # whose window must fit along every axis
        target = regions(12, case.classes)
        logits = scores(12, target, case.classes)
        torch.testing.assert_close(
            case.build()(logits[:, :, None], target[:, None]), case.build()(logits, target), rtol=1e-5, atol=1e-7
        )


@every_case
def test_target_may_be_uint8_or_int16(case: Case) -> None:
    target = regions(13, case.classes)
    target[1, :3] = 255
    logits = scores(13, target, case.classes)
    expected = case.build()(logits, target)
    assert case.build()(logits, target.to(torch.uint8)) == expected
    assert case.build()(logits, target.to(torch.int16)) == expected


def test_any_value_can_be_the_ignored_one() -> None:
    target = regions(14, 4)
    logits = scores(14, target, 4)
    expected = create_loss({"cross_entropy": 1.0, "dice": 1.0})(logits, target.masked_fill(target == 3, 255))
    assert create_loss({"cross_entropy": 1.0, "dice": 1.0}, ignore_index=3)(logits, target) == expected
    assert (
        create_loss({"cross_entropy": 1.0, "dice": 1.0}, ignore_index=-1)(logits, target.masked_fill(target == 3, -1))
        == expected
    )
    with pytest.raises(InputError, match="255"):
        create_loss({"dice": 1.0}, ignore_index=-1)(logits, target.masked_fill(target == 3, 255).to(torch.uint8))


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=lambda case: case.id)
def test_input_that_does_not_fit_is_refused_in_words(case: Case) -> None:
    loss, target = case.build(), regions(15, case.classes)
    logits = scores(15, target, case.classes)
    with pytest.raises(InputError, match=r"target holds labels \[9\], expected 0..3 or 255"):
        loss(logits, target.masked_fill(target == 2, 9))
    with pytest.raises(InputError, match=r"labels \[-1\]"):
        loss(logits, target.masked_fill(target == 2, -1))
    with pytest.raises(InputError, match=r"expected integers \(2, 12, 16\)"):
        loss(logits, target[:, :6])
    with pytest.raises(InputError, match=r"target is torch.float32"):
        loss(logits, target.float())
    with pytest.raises(InputError, match=r"C >= 2"):
        loss(logits[:, :1], target)
    with pytest.raises(InputError, match=r"expected \(B, C, H, W\)"):
        loss(logits[0], target[0])
    with pytest.raises(InputError, match=r"logits are a torch.float32 tensor and the target is ndarray, expected tens"):
        loss(logits, target.numpy())
    with pytest.raises(InputError, match="the target is ndarray"):
        create_loss({"cross_entropy": 1.0})(logits, target.numpy())
    with pytest.raises(InputError, match=r"logits are a torch.int64 tensor and the target is a torch.int64 tens"):
        loss(logits.long(), target)

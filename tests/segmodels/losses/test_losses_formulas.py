"""Mistakes that published formulas and code of losses make, one test each: the right form where they go wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import one_hot, perfect_scores, regions, scores, value_and_gradient
from scipy.ndimage import distance_transform_edt

from segmodels.losses import create_loss, list_losses, loss_class
from segmodels.losses.base import LogitsLoss
from segmodels.losses.distribution import TopKLoss
from segmodels.losses.mask_classification import MaskClassificationLoss
from segmodels.outputs import QueryOutput
from segmodels.training.class_weights import class_weights


def uneven(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and target of three classes that cover 1/2, 3/8 and 1/8 of the pixels."""
    target = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])[torch.randperm(8, generator=torch.Generator().manual_seed(seed))]
    target = target.view(1, 2, 4).repeat(2, 8, 4)
    return scores(seed, target, 3), target


def test_only_micro_sums_make_dice_tversky_and_asymmetric_similarity_one_function() -> None:
    logits, target = uneven()
    logits[:, 0] += 2.0  # so that the large class is over-predicted
    mean_error = 1 - logits.softmax(1).gather(1, target[:, None]).mean()
    configs = [
        {"dice": {}},
        {"tversky": {"fp_weight": 0.1, "fn_weight": 0.9}},
        {"asymmetric_similarity": {"beta": 2.0}},
    ]
    micro = [
        create_loss({name: options | {"reduction": "micro", "smooth": 0.0}})(logits, target)
        for config in configs
        for name, options in config.items()
    ]
    macro = [
        create_loss({name: options | {"smooth": 0.0}})(logits, target)
        for config in configs
        for name, options in config.items()
    ]
    for value in micro:
        torch.testing.assert_close(value, mean_error, rtol=1e-6, atol=0)
    assert min(abs(float(a - b)) for i, a in enumerate(macro) for b in macro[:i]) > 1e-3
    assert min(abs(float(value - mean_error)) for value in macro) > 1e-3


def test_perfect_dice_is_0_whatever_the_smoothing_not_below() -> None:
    _, target = uneven()
    for smooth in (0.0, 1e-5, 1.0, 100.0):
        assert create_loss({"dice": {"smooth": smooth}})(perfect_scores(target, 3), target) == 0


def test_generalized_dice_of_two_halves_is_0_when_right_and_1_when_wrong() -> None:
    target = torch.zeros(1, 512, 512, dtype=torch.int64)
    target[:, 256:] = 1
    loss = create_loss({"generalized_dice": {}})
    assert loss(perfect_scores(target, 2), target) == 0
    assert loss(perfect_scores(1 - target, 2), target) == 1


@pytest.mark.parametrize("name", ["generalized_dice", "penalty"])
def test_an_absent_class_does_not_swallow_generalized_dice(name: str) -> None:
    target = regions(0, 3)
    loss = create_loss({name: 1.0})
    assert loss(perfect_scores(target, 4), target) == 0
    logits = scores(0, target, 4)
    value, gradient = value_and_gradient(loss, logits, target)
    assert 0.1 < value < 0.95
    assert gradient[:, :3].any()
    halves = torch.cat([logits, logits]).half()
    assert loss(halves, torch.cat([target, target])).isfinite()


def test_smoothing_keeps_the_gradient_of_false_alarms_around_a_small_object() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[0, 4, 4] = 1
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 6.0  # TP + 0.3 FP + 0.7 FN is 0.75: a clamp(min=1) would make the denominator a constant
    _, gradient = value_and_gradient(
        create_loss({"tversky": {"include_background": False, "smooth": 0.0}}), logits, target
    )
    s = float(torch.sigmoid(torch.tensor(-6.0)))
    denominator = s + 0.3 * 63 * s + 0.7 * (1 - s)
    assert denominator < 1
    assert float(gradient[0, 1, 0, 0]) == pytest.approx(0.3 * s / denominator**2 * s * (1 - s), rel=1e-3)
    assert float(gradient[0, 1, 4, 4]) == pytest.approx(
        -(denominator - 0.3 * s) / denominator**2 * s * (1 - s), rel=1e-3
    )


def test_beta_above_1_punishes_misses_and_the_loss_is_1_minus_f_beta() -> None:
    target = torch.zeros(1, 4, 8, dtype=torch.int64)
    target[:, :, 4:] = 1
    missed, alarmed = target.clone(), target.clone()
    missed[:, :2, 4:] = 0
    alarmed[:, :2, :4] = 1
    loss = create_loss({"asymmetric_similarity": {"beta": 1.5, "include_background": False, "smooth": 0.0}})
    of_missed, of_alarmed = loss(perfect_scores(missed, 2), target), loss(perfect_scores(alarmed, 2), target)
    square = 1.5**2
    assert float(of_missed) == pytest.approx(1 - (1 + square) * 8 / ((1 + square) * 8 + square * 8), rel=1e-6)
    assert float(of_alarmed) == pytest.approx(1 - (1 + square) * 16 / ((1 + square) * 16 + 8), rel=1e-6)
    assert loss(perfect_scores(missed, 2), target) > create_loss(
        {"dice": {"include_background": False, "smooth": 0.0}}
    )(perfect_scores(missed, 2), target)


def test_focal_tversky_takes_the_power_of_each_class_and_its_slope_stays_finite() -> None:
    logits, target = uneven(1)
    logits[:, 0] += 2.0  # so that the large class is over-predicted
    of_classes = naive_tversky(logits, target, fp=0.3, fn=0.7, smooth=0.0)
    loss = create_loss({"focal_tversky": {"exponent": 0.75, "smooth": 0.0}})
    assert float(loss(logits, target)) == pytest.approx(np.mean(of_classes**0.75), rel=1e-5)
    assert float(loss(logits, target)) != pytest.approx(np.mean(of_classes) ** 0.75, rel=1e-5)
    assert float(create_loss({"focal_tversky": {"fp_weight": 0.7, "fn_weight": 0.3}})(logits, target)) != pytest.approx(
        float(loss(logits, target)), rel=1e-3
    )
    for scale in (1e-3, 0.1, 0.5, 1.0):
        value, gradient = value_and_gradient(loss, scale * perfect_scores(target, 3), target)
        assert value.isfinite()
        assert gradient.isfinite().all()


def naive_tversky(logits: torch.Tensor, target: torch.Tensor, fp: float, fn: float, smooth: float) -> np.ndarray:
    """Tversky loss of each class over the batch."""
    s, y = logits.double().softmax(1).movedim(1, -1).reshape(-1, logits.shape[1]).numpy(), target.flatten().numpy()
    losses = []
    for c in range(logits.shape[1]):
        inside, outside = s[y == c, c], s[y != c, c]
        overlap = inside.sum()
        losses.append(1 - (overlap + smooth) / (overlap + fp * outside.sum() + fn * (1 - inside).sum() + smooth))
    return np.array(losses)


def test_the_small_share_r_goes_to_the_error_inside_the_class() -> None:
    target = torch.zeros(1, 4, 8, dtype=torch.int64)
    target[:, :, 6:] = 1
    nothing_found = perfect_scores(torch.zeros_like(target), 2)
    options = {"sensitivity_weight": 0.05, "smooth": 0.0, "include_background": False}
    assert float(create_loss({"sensitivity_specificity": options})(nothing_found, target)) == pytest.approx(0.05)
    everything_found = perfect_scores(torch.ones_like(target), 2)
    assert float(create_loss({"sensitivity_specificity": options})(everything_found, target)) == pytest.approx(0.95)


def test_lovasz_of_certain_predictions_is_the_jaccard_loss_of_the_classes_present() -> None:
    target, predicted = regions(2, 3), regions(5, 4)
    iou = [((target == c) & (predicted == c)).sum() / ((target == c) | (predicted == c)).sum() for c in range(3)]
    assert float(create_loss({"lovasz_softmax": 1.0})(perfect_scores(predicted, 4), target)) == pytest.approx(
        1 - float(torch.stack(iou).mean()), abs=1e-6
    )
    per_image = []
    for i in range(2):
        per_image += [
            ((target[i] == c) & (predicted[i] == c)).sum() / ((target[i] == c) | (predicted[i] == c)).sum()
            for c in range(3)
        ]
    value = create_loss({"lovasz_softmax": {"per_image": True}})(perfect_scores(predicted, 4), target)
    assert float(value) == pytest.approx(1 - float(torch.stack(per_image).mean()), abs=1e-6)


def test_distance_penalty_weighs_cross_entropy_by_1_to_2_with_one_softmax() -> None:
    target = regions(3, 4)
    loss = create_loss({"distance_penalized_cross_entropy": 1.0})
    assert float(loss(perfect_scores(target, 4), target)) == pytest.approx(0, abs=1e-6)
    logits = scores(3, target, 4)
    expected = []
    for image, names in zip(logits.double(), target, strict=True):
        log_s = image.log_softmax(0).numpy()
        for c in range(4):
            inside = (names == c).numpy()
            distance = distance_transform_edt(inside)
            expected += list(-(1 + (distance.max() - distance) / distance.max())[inside] * log_s[c][inside])
    assert float(loss(logits, target)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_hausdorff_thresholds_the_prediction_before_measuring() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[0, 2:4, 2:4] = 1
    soft = torch.where(target == 1, 0.9, 0.1)  # nowhere 0: a transform of the soft map itself would find no edge
    logits = torch.stack([1 - soft, soft], 1).log()
    y, s = (target[0] == 1).numpy(), soft[0].double().numpy()
    distance = distance_transform_edt(y) + distance_transform_edt(~y)
    expected = np.mean([(error**2 * 2 * distance**2).mean() for error in ((1 - s) - ~y, s - y)])
    assert float(create_loss({"hausdorff": 1.0})(logits, target)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["boundary", "hausdorff", "distance_penalized_cross_entropy"])
def test_distances_are_not_measured_across_the_batch(name: str) -> None:
    target = regions(4, 4, (3, 12, 16))
    logits, loss = scores(4, target, 4), create_loss({name: 1.0})
    singles = torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)]).mean()
    torch.testing.assert_close(loss(logits, target), singles, rtol=1e-5, atol=1e-7)


def test_a_class_that_fills_its_image_has_no_boundary_to_measure() -> None:
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    logits = torch.zeros(1, 2, 16, 16)
    assert create_loss({"boundary": {"include_background": True}})(logits, target) == 0
    assert create_loss({"hausdorff": 1.0})(logits, target) == 0
    cross_entropy = create_loss({"cross_entropy": 1.0})(logits, target)
    assert create_loss({"distance_penalized_cross_entropy": 1.0})(logits, target) == cross_entropy


def test_focal_is_finite_at_probability_0_and_equals_cross_entropy_at_gamma_0() -> None:
    target = regions(5, 4)
    wrong = 200 * one_hot((target + 1) % 4, 4)
    value, gradient = value_and_gradient(create_loss({"focal": 1.0}), wrong, target)
    assert float(value) == pytest.approx(200)
    assert gradient.isfinite().all()
    logits = scores(5, target, 4)
    torch.testing.assert_close(create_loss({"focal": {"gamma": 0.0}})(logits, target), F.cross_entropy(logits, target))


def test_top_k_filters_ignored_pixels_keeps_one_pixel_and_uses_its_weights() -> None:
    target = regions(6, 4)
    logits = scores(6, target, 4)
    target[:, 2:5] = 255
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    values = (
        F.cross_entropy(logits, target, weight=weights, ignore_index=255, reduction="none")[target != 255]
        .sort(descending=True)
        .values
    )
    kept = int(len(values) * 0.1)
    torch.testing.assert_close(TopKLoss(k=10, class_weights=weights)(logits, target), values[:kept].mean())
    torch.testing.assert_close(TopKLoss(k=1e-3, class_weights=weights)(logits, target), values[0])


def test_weighted_cross_entropy_divides_by_weights_or_by_pixels_as_named() -> None:
    logits, target = uneven(7)
    weights = torch.tensor([1.0, 2.0, 4.0])
    by_weights = create_loss({"weighted_cross_entropy": {"normalize": "weights"}}, class_weights=weights)(
        logits, target
    )
    by_pixels = create_loss({"weighted_cross_entropy": {"normalize": "pixels"}}, class_weights=weights)(logits, target)
    torch.testing.assert_close(by_weights, F.cross_entropy(logits, target, weight=weights))
    torch.testing.assert_close(
        by_pixels, F.cross_entropy(logits, target, weight=weights, reduction="sum") / target.numel()
    )
    torch.testing.assert_close(by_pixels / by_weights, weights[target].mean())


def test_penalty_is_the_closed_form_of_generalized_dice() -> None:
    logits, target = uneven(8)
    dice = create_loss({"generalized_dice": 1.0})(logits, target)
    for k in (0.0, 1.0, 2.5):
        value = create_loss({"penalty": {"k": k}})(logits, target)
        torch.testing.assert_close(value, 1 - (1 - dice) / (1 + k * dice))
        assert dice <= value <= 1


@pytest.mark.parametrize("name", [name for name in list_losses() if issubclass(loss_class(name), LogitsLoss)])
def test_every_loss_takes_ignored_pixels_and_volumes(name: str) -> None:
    options = {"scales": 1, "window": 3} if name == "ms_ssim" else {}
    target = regions(9, 2, (1, 8, 8, 8))
    logits = scores(9, target, 2)
    target[:, 0] = 255
    value, gradient = value_and_gradient(
        create_loss({name: options}, class_weights=torch.tensor([1.0, 2.0])), logits, target
    )
    assert value.isfinite()
    assert gradient[:, :, 1:].any()
    assert not gradient[:, :, 0].any()


def test_queries_without_a_segment_pay_for_their_class_and_not_for_their_mask() -> None:
    class_logits, mask_logits = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)
    class_logits[0, 0, 1], mask_logits[0, 0] = 5.0, 9.0  # the first query matches the only segment
    loss, target = MaskClassificationLoss(), torch.ones(1, 4, 4, dtype=torch.int64)
    (terms,) = loss.parts([QueryOutput(class_logits, mask_logits)], target)
    log_s = class_logits[0].log_softmax(1)
    torch.testing.assert_close(terms["class"], -(log_s[0, 1] + 0.1 * log_s[1, 3]) / 1.1)
    mask_logits[0, 1] = 4.0
    (other,) = loss.parts([QueryOutput(class_logits, mask_logits)], target)
    assert other["mask"] == terms["mask"]
    assert other["dice"] == terms["dice"]


def test_cross_entropy_is_the_sum_over_pixels_1_to_n_divided_by_n() -> None:
    logits, target = uneven(10)
    s = logits.double().softmax(1).numpy()
    total = sum(-np.log(s[b, target[b, i, j], i, j]) for b in range(2) for i in range(16) for j in range(16))
    assert float(create_loss({"cross_entropy": 1.0})(logits, target)) == pytest.approx(total / target.numel(), rel=1e-6)


def test_complement_weights_sum_to_one_less_than_the_classes() -> None:
    weights = class_weights("complement", [60, 30, 10, 0], [100, 100, 50, 0])
    torch.testing.assert_close(weights, torch.tensor([0.4, 0.7, 0.9, 1.0]))
    assert float(weights.sum()) == pytest.approx(3)

"""Losses of outputs that some models have beside their logits: the presence of classes, the logits of chosen points."""

import pytest
import torch
from torch.nn import functional as F

from segmodels.errors import InputError
from segmodels.losses import WeightedSum, create_loss
from segmodels.losses.base import LogitsLoss
from segmodels.losses.points import PointsLoss
from segmodels.losses.presence import ObjectPresenceLoss, PresenceLoss, present_classes
from segmodels.losses.soft_labels import soft_label_loss
from segmodels.outputs import PixelOutput, PointPrediction
from segmodels.tasks.targets import SemanticTargets

TARGET = torch.tensor([[[0, 0, 255], [2, 255, 255]], [[1, 1, 1], [1, 1, 1]]])


def test_presence_is_of_the_classes_that_an_image_shows_and_not_of_ignored_pixels() -> None:
    present, known = present_classes(TARGET, 4)
    assert present.tolist() == [[True, False, True, False], [False, True, False, False]]
    assert known.tolist() == [True, True]
    assert torch.equal(present_classes(TARGET.to(torch.uint8), 4)[0], present)


def test_presence_loss_is_binary_cross_entropy_of_each_class() -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    expected = F.binary_cross_entropy(logits.sigmoid(), torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]))
    torch.testing.assert_close(PresenceLoss()(logits, TARGET), expected)


def test_presence_loss_does_not_see_how_large_an_object_is() -> None:
    logits = torch.randn(1, 3)
    small, large = torch.zeros(1, 8, 8, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.int64)
    small[0, 0, 0], large[0, :7] = 2, 2
    assert PresenceLoss()(logits, small) == PresenceLoss()(logits, large)


def test_object_presence_loss_tells_images_with_an_object_from_those_of_background_alone() -> None:
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([[[0, 0, 255]], [[0, 2, 255]], [[255, 255, 255]], [[1, 1, 1]]])
    value = ObjectPresenceLoss()(logits, target)
    torch.testing.assert_close(value, F.cross_entropy(logits[[0, 1, 3]], torch.tensor([0, 1, 1])))
    torch.testing.assert_close(ObjectPresenceLoss()(logits, target.to(torch.uint8)), value)
    assert torch.autograd.grad(value, logits)[0][2].tolist() == [0, 0]
    with pytest.raises(InputError, match=r"expected \(4, 2\)"):
        ObjectPresenceLoss()(torch.randn(4, 3), target)


def test_an_image_of_ignored_pixels_says_nothing_about_its_classes() -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    target = torch.cat([TARGET[:1], torch.full((1, 2, 3), 255)])
    value = PresenceLoss()(logits, target)
    torch.testing.assert_close(value, PresenceLoss()(logits[:1], TARGET[:1]))
    value.backward()
    assert not logits.grad[1].any()
    nothing = PresenceLoss()(logits, torch.full((2, 2, 3), 255))
    assert nothing == 0


def test_presence_logits_of_other_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected \(2, C\)"):
        PresenceLoss()(torch.randn(3, 4), TARGET)


def test_points_lie_on_the_pixels_that_nearest_sampling_finds() -> None:
    height, width = 5, 7
    coordinates = torch.rand(2, 200, 2, generator=torch.Generator().manual_seed(0))
    values = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width).expand(2, 1, -1, -1)
    expected = F.grid_sample(values, 2 * coordinates[:, :, None] - 1, mode="nearest", align_corners=False)[:, 0, :, 0]
    assert torch.equal(PointPrediction(torch.empty(2, 3, 200), coordinates).pixels(height, width), expected.long())
    corners = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    assert PointPrediction(torch.empty(1, 3, 2), corners).pixels(height, width).tolist() == [[0, height * width - 1]]


def test_points_loss_is_cross_entropy_at_the_points_without_those_on_ignored_pixels() -> None:
    logits = torch.randn(2, 4, 3, requires_grad=True)
    coordinates = torch.tensor([[[0.1, 0.1], [0.9, 0.2], [0.2, 0.9]], [[0.5, 0.5], [0.9, 0.9], [0.1, 0.9]]])
    labels = torch.tensor([[0, 255, 2], [1, 1, 1]])
    value = PointsLoss()(PointPrediction(logits, coordinates), TARGET)
    torch.testing.assert_close(value, F.cross_entropy(logits, labels, ignore_index=255))
    value.backward()
    assert not logits.grad[0, :, 1].any()


def test_points_loss_takes_the_class_weights() -> None:
    logits, weights = torch.randn(2, 4, 3), torch.tensor([1.0, 2.0, 3.0, 4.0])
    points = PointPrediction(logits, torch.rand(2, 3, 2))
    labels = TARGET.flatten(1).gather(1, points.pixels(2, 3))
    loss = create_loss({"points": 1.0}, class_weights=weights)
    torch.testing.assert_close(
        loss(PixelOutput(torch.empty(0), extras={"points": points}), TARGET),
        F.cross_entropy(logits, labels, weights, ignore_index=255),
    )


def test_terms_on_further_outputs_are_left_out_where_a_prediction_has_none() -> None:
    logits, presence = torch.randn(2, 4, 2, 3), torch.randn(2, 4)
    loss = create_loss({"cross_entropy": 1.0, "presence": 0.2})
    terms = loss.terms(PixelOutput(logits, extras={"presence": presence}), TARGET)
    assert list(terms) == ["cross_entropy", "presence"]
    torch.testing.assert_close(
        loss(PixelOutput(logits, extras={"presence": presence}), TARGET),
        terms["cross_entropy"] + 0.2 * PresenceLoss()(presence, TARGET),
    )
    for without in (logits, PixelOutput(logits)):
        assert list(loss.terms(without, TARGET)) == ["cross_entropy"]


def test_the_class_of_the_whole_image_is_learnt_and_its_share_of_right_ones_reported() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 0, 1.0]])
    layer = PixelOutput(torch.randn(2, 4, 2, 3), extras={"image_label": logits})
    targets = SemanticTargets(TARGET, torch.tensor([0, 1]))
    loss = create_loss({"cross_entropy": 1.0, "image_label": 0.5})
    terms = loss.terms(layer, targets)
    torch.testing.assert_close(terms["image_label"], F.cross_entropy(logits, torch.tensor([0, 1])))
    curves = loss.curves(layer, targets, terms)
    assert list(curves) == ["cross_entropy", "image_cross_entropy", "image_accuracy"]
    assert curves["image_accuracy"] == 0.5
    assert list(loss.terms(layer.logits, targets)) == ["cross_entropy"]
    with pytest.raises(InputError, match="'image_label' got images without image labels"):
        loss.terms(layer, TARGET)


def test_further_heads_learn_from_the_labels_there_are_and_the_others_get_a_gradient_of_zero() -> None:
    logits = {
        "part": torch.randn(2, 4, 2, 3, requires_grad=True),
        "scene": torch.randn(2, 5, requires_grad=True),
        "material": torch.randn(2, 300, 2, 3, requires_grad=True),
        "texture": torch.randn(2, 2, 2, 3, requires_grad=True),
    }
    material = torch.randint(0, 300, (2, 2, 3)).masked_fill(TARGET == 255, -1).short()
    targets = SemanticTargets(TARGET, torch.tensor([3, -1]), {"part": TARGET.byte(), "material": material})
    loss = create_loss({"further": 1.0})
    value = loss(PixelOutput(torch.randn(2, 4, 2, 3), extras={"further": logits}), targets)
    expected = (
        F.cross_entropy(logits["part"], TARGET, ignore_index=255)
        + F.cross_entropy(logits["scene"], targets.image_label, ignore_index=-1)
        + F.cross_entropy(logits["material"], material.long(), ignore_index=-1)
    )
    torch.testing.assert_close(value, expected)
    value.backward()
    assert [bool(scores.grad.any()) for scores in logits.values()] == [True, True, True, False]
    with pytest.raises(InputError, match=r"further head 'texture': target holds labels \[2\]"):
        loss(PixelOutput(TARGET, extras={"further": logits}), targets._replace(further={"texture": TARGET.byte()}))


def test_soft_labels_take_the_place_of_the_targets_for_losses_that_accept_them() -> None:
    logits, soft = torch.randn(2, 4, 2, 3), torch.randn(2, 4, 2, 3).softmax(1)
    loss = create_loss({"dice": 1.0, "cross_entropy": 1.0})
    terms = loss.terms(logits, TARGET, soft_labels=soft)
    assert list(terms) == ["dice", "cross_entropy"]
    assert terms["cross_entropy"] == soft_label_loss(logits, soft)
    assert terms["dice"] == create_loss({"dice": 1.0})(logits, TARGET)
    weighted = create_loss({"weighted_cross_entropy": {"class_weights": [1.0, 2.0, 3.0, 4.0]}})
    assert weighted.terms(logits, TARGET, soft_labels=soft) == weighted.terms(logits, TARGET)


def test_a_loss_that_is_not_registered_can_be_summed_too() -> None:
    class Peaks(LogitsLoss):
        def compute(self, logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
            return ((logits.square().sum(dim=1) - labels) * valid).mean()

    logits = torch.randn(2, 4, 2, 3)
    loss = WeightedSum({"peaks": Peaks(), "presence": PresenceLoss()}, {"peaks": 0.5, "presence": 1.0})
    torch.testing.assert_close(loss(logits, TARGET), 0.5 * Peaks()(logits, TARGET))

"""PointRend: where points lie, which pixels a subdivision changes, how the point head trains."""

import pytest
import torch
from torch.nn import functional as F

from segmodels.layers.points import least_certain, sample_points, training_points
from segmodels.losses import create_loss
from segmodels.models.analysis import count_gmac, count_parameters, on_meta
from segmodels.models.pointrend import (
    PointHead,
    PointRend,
    uncertainty,
)
from segmodels.models.registry import create_model, model_entry


@pytest.mark.parametrize(("num_classes", "count", "gmac"), [(19, 28_715_119, 48.82), (150, 28_888_432, 51.65)])
def test_counts_of_the_reference(num_classes, count, gmac):
    model, images = on_meta("pointrend_r50", num_classes)
    assert count_parameters(model) == count
    assert round(count_gmac(model, images), 2) == gmac


def test_sampling_at_the_centres_of_pixels_gives_their_values_and_between_them_the_mean():
    maps = torch.randn(1, 3, 4, 5)
    centres = torch.tensor([[[(2 + 0.5) / 5, (1 + 0.5) / 4], [3 / 5, (1 + 0.5) / 4]]])
    values = sample_points(maps, centres)
    torch.testing.assert_close(values[..., 0], maps[..., 1, 2])
    torch.testing.assert_close(values[..., 1], (maps[..., 1, 2] + maps[..., 1, 3]) / 2)


def test_uncertainty_is_the_margin_of_the_two_likeliest_classes():
    logits = torch.tensor([[[[3.0, 0.0]], [[1.0, 0.1]], [[-5.0, 0.0]]]])
    torch.testing.assert_close(uncertainty(logits), torch.tensor([[[-2.0, -0.1]]]))


def boundary_logits(size: int = 32) -> torch.Tensor:
    """Two classes, one on each side of x = 0.5: uncertain there, certain far from it."""
    ramp = torch.linspace(-10, 10, size).expand(2, 1, size, size)
    return torch.cat([ramp, -ramp], dim=1)


def test_training_points_crowd_where_the_logits_are_uncertain_in_the_share_asked_for():
    torch.manual_seed(0)
    logits = boundary_logits()
    points = training_points(
        lambda candidates: uncertainty(sample_points(logits, candidates)),
        2,
        1000,
        oversampling=3,
        importance=0.75,
        device=torch.device("cpu"),
    )
    assert points.shape == (2, 1000, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = (points[..., 0] - 0.5).abs()
    assert (distance[:, :750] < 0.14).float().mean() > 0.99, (
        "a quarter of the oversampled points lies within 0.125 of the boundary; logits fade in corners too"
    )
    assert (distance[:, 750:] > 0.25).float().mean() == pytest.approx(0.5, abs=0.1), "the others are spread evenly"
    assert points[..., 1].mean() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(points[0], points[1])


def test_uncertain_pixels_are_those_of_the_smallest_margin_at_their_centres():
    logits = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    places, coordinates = least_certain(uncertainty(logits), 10)
    for image in range(2):
        expected = uncertainty(logits)[image].flatten().argsort(descending=True)[:10]
        assert set(places[image].tolist()) == set(expected.tolist())
    torch.testing.assert_close(
        sample_points(logits, coordinates), logits.flatten(2).gather(2, places[:, None].expand(-1, 4, -1))
    )
    assert least_certain(uncertainty(logits), 1000)[0].sort().values.tolist() == [list(range(48))] * 2


def small_model(**options: int) -> PointRend:
    torch.manual_seed(0)
    model = create_model("pointrend_r50", 3, encoder="resnet18")
    for name, value in options.items():
        setattr(model, name, value)
    return model


def test_a_subdivision_changes_only_the_chosen_pixels():
    model = small_model(steps=1, pixels=20).eval()
    fine, coarse = torch.randn(2, 256, 8, 12), torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        refined = model.subdivide(fine, coarse)
        doubled = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        places, coordinates = least_certain(uncertainty(doubled), 20)
        changed = (refined != doubled).any(dim=1).flatten(1)
        for image in range(2):
            assert set(changed[image].nonzero().flatten().tolist()) == set(places[image].tolist())
        got = refined.flatten(2).gather(2, places[:, None].expand(-1, 3, -1))
        torch.testing.assert_close(
            got, model.point_head(sample_points(fine, coordinates), sample_points(coarse, coordinates))
        )


def test_two_steps_come_to_four_times_the_coarse_size_and_no_step_changes_nothing():
    model = small_model().eval()
    fine, coarse = torch.randn(1, 256, 8, 12), torch.randn(1, 3, 8, 12)
    with torch.no_grad():
        assert model.subdivide(fine, coarse).shape == (1, 3, 32, 48)
        model.steps = 0
        assert torch.equal(model.subdivide(fine, coarse), coarse)


def test_the_coarse_logits_enter_every_layer_of_the_point_head():
    head = PointHead(6, 4, channels=5)
    assert [layer.in_channels for layer in (*head.fcs, head.fc_seg)] == [6 + 4, 5 + 4, 5 + 4, 5 + 4]
    fine, coarse = torch.randn(2, 6, 7), torch.randn(2, 4, 7)
    for index, layer in enumerate((*head.fcs, head.fc_seg)):
        original = layer.weight.detach().clone()
        before = head(fine, coarse)
        with torch.no_grad():
            layer.weight[:, -4:] = 0
        assert not torch.allclose(head(fine, coarse), before), f"layer {index}"
        with torch.no_grad():
            layer.weight.copy_(original)


def test_in_training_the_logits_are_the_coarse_heads_at_every_pixel():
    """So that the coarse head has its loss on all pixels; that of the points comes beside it."""
    model = small_model(points=100).train()
    coarse: list[torch.Tensor] = []
    model.conv_seg.register_forward_hook(lambda _module, _inputs, output: coarse.append(output))
    prediction = model(torch.randn(2, 3, 64, 64))
    expected = F.interpolate(coarse[0], (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(prediction.logits, expected)
    assert prediction.extras["points"].logits.shape == (2, 3, 100)
    F.cross_entropy(prediction.logits, torch.randint(3, (2, 64, 64))).backward()
    assert all(parameter.grad is None for parameter in model.point_head.parameters())
    assert model.eval()(torch.randn(2, 3, 64, 64)).extras == {}


def test_the_loss_of_points_trains_the_point_head_and_comes_with_the_model():
    assert model_entry("pointrend_r50").card.losses == {"cross_entropy": 1.0, "points": 1.0}
    model = small_model(points=100).train()
    target = torch.randint(3, (2, 64, 64))
    create_loss({"points": 1.0})(model(torch.randn(2, 3, 64, 64)), target).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.point_head.parameters())

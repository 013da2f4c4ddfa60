"""PointRend for instances: the layers of the paper, where points lie, what they learn, how masks are refined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.layers.matching import Objects
from segmodels.layers.points import least_certain
from segmodels.layers.roi_heads import HeadSettings
from segmodels.layers.sampling import BoxesOfObjects
from segmodels.losses import create_loss
from segmodels.models.analysis import count_parameters, on_meta
from segmodels.models.pointrend_rcnn import PointRendHeads, fine_features
from segmodels.object_reading import InstanceSettings
from segmodels.outputs import DetectionOutput, DetectionTraining, Sampled


def test_the_heads_have_the_papers_layers() -> None:
    model, _ = on_meta("pointrend_rcnn_r50_fpn")
    heads = model.roi_heads
    convolution, first, second = (layer for layer in heads.mask_head.modules() if hasattr(layer, "weight"))
    assert (convolution.kernel_size, convolution.stride, convolution.out_channels) == ((2, 2), (2, 2), 256)
    assert [(layer.in_features, layer.out_features) for layer in (first, second, heads.masks)] == [
        (256 * 7 * 7, 1024),
        (1024, 1024),
        (1024, 80 * 7 * 7),
    ]
    assert [(layer.in_channels, layer.out_channels) for layer in (*heads.point_head.fcs, heads.point_head.fc_seg)] == [
        *[(256 + 80, 256)] * 3,
        (256 + 80, 80),
    ]
    assert (heads.points, heads.pixels, 7 * 2**heads.steps) == (196, 784, 224)
    plain, _ = on_meta("mask_rcnn_r50_fpn", 80)
    own = sum(map(count_parameters, (heads.mask_head, heads.masks, heads.point_head)))
    theirs = sum(map(count_parameters, (plain.roi_heads.mask_head, plain.roi_heads.mask_up, plain.roi_heads.masks)))
    assert own == 262_400 + 12_846_080 + 1_049_600 + 4_018_000 + 3 * 86_272 + 26_960
    assert count_parameters(model) - own == count_parameters(plain) - theirs


def test_features_of_points_are_bilinear_between_the_centres_of_pixels() -> None:
    finest = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[4.0, 8, 20, 24]]), torch.tensor([[0.0, 0, 40, 32], [10, 10, 30, 30]])]
    # of the first box: its middle (12, 16), and (10, 14), the centre of the pixel in row 3, column 2
    shares = [torch.tensor([[[0.5, 0.5], [0.375, 0.375]]]), torch.rand(2, 2, 2)]
    found = fine_features(finest, boxes, shares)
    assert found.shape == (3, 3, 2)
    torch.testing.assert_close(found[0, :, 1], finest[0, :, 3, 2])
    torch.testing.assert_close(found[0, :, 0], finest[0, :, 3:5, 2:4].mean(dim=(1, 2)))
    x, y = (boxes[1][1, :2] + shares[1][1] * 20).unbind(1)
    grid = torch.stack([2 * x / 40 - 1, 2 * y / 32 - 1], dim=1)[None, :, None]
    torch.testing.assert_close(found[2], F.grid_sample(finest[1:], grid, align_corners=False)[0, :, :, 0])
    assert fine_features(finest, [box[:0] for box in boxes], [share[:0] for share in shares]).shape == (0, 3, 2)


def small(**options: int) -> PointRendHeads:
    torch.manual_seed(0)
    return PointRendHeads(3, HeadSettings(channels=4, hidden=8), **options)


def test_points_learn_whether_the_object_covers_them_and_the_coarse_mask_its_shares() -> None:
    heads = small(points=50)
    masks = torch.zeros(2, 32, 40, dtype=torch.bool)
    masks[0, :, :20], masks[1, 16:] = True, True
    truth = Objects.of([torch.zeros(2, 4)], [torch.tensor([2, 1])], [masks], [torch.zeros(0, 4)])
    boxes = torch.tensor([[10.0, 4, 30, 24], [2, 2, 38, 30], [22, 4, 36, 14]])  # 2 pixels off the border
    owners, labels, image = torch.tensor([0, 1, 0]), torch.tensor([2, 1, 2]), torch.zeros(3, dtype=torch.int64)
    sampled = BoxesOfObjects([boxes], owners, labels, image, torch.arange(3), [])
    seen: list[Tensor] = []
    heads.point_head.register_forward_hook(lambda _module, inputs, output: seen.extend((*inputs, output)))
    finest = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij"))
    pyramid = [torch.cat([finest, finest])[None]]  # rows and columns: where a point lies is what is read there
    samples = heads.mask_samples(pyramid, sampled, truth)
    assert samples.logits.shape == samples.shares.shape == (3, 7, 7)
    torch.testing.assert_close(samples.shares[0, 0, [0, 1, 2, 4, 5, 6]], torch.tensor([1.0, 1, 1, 0, 0, 0]))
    fine, coarse, logits = seen
    assert (fine.shape, coarse.shape, logits.shape) == ((3, 4, 50), (3, 3, 50), (3, 3, 50))
    said, covered = samples.further["points"]
    for box, label in enumerate((2, 1, 2)):
        assert torch.equal(said[box], logits[box, label])
    rows, columns = 4 * (fine[:, 0] + 0.5), 4 * (fine[:, 1] + 0.5)
    assert torch.equal(covered, torch.stack([columns[0] < 20, rows[1] >= 16, columns[2] < 20]).float())
    assert covered[:2].mean() == pytest.approx(0.5, abs=0.2)
    assert not covered[2].any()


def test_the_loss_of_points_is_their_mean_cross_entropy() -> None:
    nothing = Sampled(torch.zeros(0, 4), torch.zeros(0, 4))
    points = Sampled(torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    masks = Sampled(torch.randn(2, 7, 7), torch.rand(2, 7, 7))
    classes = Sampled(torch.zeros(1, 3), torch.tensor([0]))
    loss = create_loss({"detection": 1.0}).losses["detection"]
    parts = loss.parts(DetectionTraining(classes, nothing, masks, further={"points": points}))
    expected = F.binary_cross_entropy(points.prediction.sigmoid(), points.target)
    torch.testing.assert_close(parts["loss_points"], expected)
    torch.testing.assert_close(parts["loss_masks"], F.binary_cross_entropy(masks.prediction.sigmoid(), masks.target))


class FirstFeature(nn.Module):
    """A point head that repeats the first fine feature for every class."""

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return fine[:, :1].expand_as(coarse)


def test_a_mask_is_refined_at_its_border() -> None:
    """A disc that the coarse mask knows roughly and the finest map exactly."""
    heads = small()
    heads.point_head = FirstFeature()
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    finest = (20 - ((x - 32) ** 2 + (y - 32) ** 2).sqrt())[None, None].expand(1, 4, -1, -1)
    box = torch.tensor([[32.0, 32, 224, 224]])  # the disc's radius is 80 pixels
    cells = (torch.arange(7) + 0.5) / 7 * 192 - 96
    coarse = (80 - (cells[:, None] ** 2 + cells**2).sqrt())[None, None].expand(1, 3, 7, 7) / 8
    found = heads._subdivide(finest, box, torch.tensor([1]), coarse)
    assert found.shape == (1, 224, 224)
    fine = (torch.arange(224) + 0.5) / 224 * 192 - 96
    disc = (fine[:, None] ** 2 + fine**2).sqrt() < 80
    unrefined = F.interpolate(coarse[:, :1], (224, 224), mode="bilinear")[0, 0]
    assert ((found[0] > 0) != disc).float().mean() < 0.001
    assert ((unrefined > 0) != disc).float().mean() > 0.008


def test_a_step_changes_the_most_uncertain_pixels_of_the_class() -> None:
    heads = small(steps=3, pixels=30)
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(2, 3, 7, 7)
    boxes, labels = torch.tensor([[2.0, 2, 20, 30], [4, 4, 12, 12]]), torch.tensor([2, 0])
    with torch.no_grad():
        found = heads._subdivide(fine, boxes, labels, coarse)
        heads.steps = 2
        before = heads._subdivide(fine, boxes, labels, coarse)
    doubled = F.interpolate(before[:, None], scale_factor=2, mode="bilinear")[:, 0]
    places, _ = least_certain(-doubled.abs(), 30)
    for changed, chosen in zip((found != doubled).flatten(1), places, strict=True):
        assert set(changed.nonzero().flatten().tolist()) == set(chosen.tolist())


def test_the_heads_learn_the_masks_of_two_classes() -> None:
    """Discs and squares that the finest map shows dimly; boxes are given."""
    heads = small(points=100)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    disc, square = ((x - 18) ** 2 + (y - 18) ** 2).sqrt() < 13, ((x - 44).abs() < 11) & ((y - 42).abs() < 15)
    masks = torch.stack([disc, square])
    boxes = torch.tensor([[5.0, 5, 31, 31], [33, 27, 55, 57]])
    truth = Objects.of([boxes], [torch.tensor([0, 2])], [masks], [torch.zeros(0, 4)])
    dim = F.avg_pool2d(masks.any(dim=0)[None, None].float(), 4)
    pyramid = [torch.cat([dim, 1 - dim, dim * 0.5, torch.ones_like(dim)], dim=1)]
    owners, labels, image = torch.tensor([0, 1]), torch.tensor([0, 2]), torch.zeros(2, dtype=torch.int64)
    sampled = BoxesOfObjects([boxes], owners, labels, image, torch.arange(2), [])
    optimizer = torch.optim.AdamW(heads.parameters(), 1e-2)
    for _ in range(100):
        samples = heads.mask_samples(pyramid, sampled, truth)
        terms = (samples.logits, samples.shares), samples.further["points"]
        loss = sum(F.binary_cross_entropy_with_logits(*term) for term in terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        (logits,) = heads.masks_of(pyramid, [boxes], [torch.tensor([0, 2])])
    output = DetectionOutput((boxes,), (torch.ones(2),), (torch.tensor([0, 2]),), (logits,), (64, 64))
    (found,) = output.instances([(64, 64)], InstanceSettings())
    for place, mask in enumerate(masks):
        same = torch.from_numpy(found.mask(place))
        assert (same & mask).sum() / (same | mask).sum() > 0.9


@pytest.mark.parametrize("count", [0, 2])
def test_detections_of_images_with_and_without_boxes(count: int) -> None:
    heads = small()
    boxes = [torch.tensor([[2.0, 2, 20, 30], [4, 4, 12, 12]])[:count], torch.zeros(0, 4)]
    labels = [torch.tensor([2, 0])[:count], torch.zeros(0, dtype=torch.int64)]
    with torch.inference_mode():
        found = heads.masks_of([torch.randn(2, 4, 8, 8)], boxes, labels)
    assert [own.shape for own in found] == [(count, 224, 224), (0, 224, 224)]

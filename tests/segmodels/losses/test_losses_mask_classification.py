"""Mask classification against transformers' MaskFormerLoss, and where that one has no rule: ignored pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_cases import regions
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segmodels.errors import InputError
from segmodels.layers import points as layer_points
from segmodels.losses import create_loss, mask_classification
from segmodels.losses.mask_classification import MaskClassificationLoss
from segmodels.losses.matching import Truth
from segmodels.outputs import PixelOutput, QueryOutput
from segmodels.tasks.targets import Segments, SegmentTargets, without_crowds

CLASSES, QUERIES = 5, 9


def prediction(seed: int, images: int = 2, layers: int = 2, size: tuple[int, int] = (6, 8)) -> QueryOutput:
    generator = torch.Generator().manual_seed(seed)

    def one() -> tuple[Tensor, Tensor]:
        return (2 * torch.randn(images, QUERIES, CLASSES + 1, generator=generator)).requires_grad_(), (
            3 * torch.randn(images, QUERIES, *size, generator=generator)
        ).requires_grad_()

    return QueryOutput(*one(), auxiliary=tuple(QueryOutput(*one()) for _ in range(layers)))


def semantic_segments(target: Tensor) -> list[Segments]:
    """Each class that an image ``(H, W)`` of the batch has as one segment."""
    segments = []
    for names in target:
        valid = names != 255
        labels = names[valid].unique().long()
        segments.append(Segments(labels, names == labels[:, None, None], valid))
    return segments


def gradients(value: Tensor, queries: QueryOutput) -> list[Tensor]:
    return list(torch.autograd.grad(value, [tensor for layer in (queries, *queries.auxiliary) for tensor in layer[:2]]))


def over_layers(queries: QueryOutput, target: Tensor | list[Segments]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its parts, each the sum over the decoder's layers."""
    loss, layers = MaskClassificationLoss(), [layer for _, layer in queries.layers((1.0,))]
    parts = loss.parts(layers, target)
    total = torch.stack(loss.of_layers(layers, target)).sum()
    return total, {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}


def transformers_loss(queries: QueryOutput, segments: list[Segments]) -> tuple[dict[str, Tensor], Tensor]:
    """Each term over all layers, and the weighted sum with MaskFormer's weights 1, 20 and 1."""
    from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher, MaskFormerLoss

    weights = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
    matcher = MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
    losses = MaskFormerLoss(CLASSES, matcher, weights, eos_coef=0.1)(
        queries.mask_logits,
        queries.class_logits,
        [each.masks.float() for each in segments],
        [each.labels for each in segments],
        [
            {"masks_queries_logits": layer.mask_logits, "class_queries_logits": layer.class_logits}
            for layer in queries.auxiliary
        ],
    )
    terms = {key: sum(value for name, value in losses.items() if name.startswith(key)) for key in weights}
    return terms, sum(weights[key] * value for key, value in terms.items())


@pytest.mark.parametrize("seed", range(3))
def test_value_terms_and_gradient_are_those_of_transformers(seed: int) -> None:
    queries, target = prediction(seed), regions(seed, CLASSES, (2, 12, 16))
    target[1][target[1] == 2] = 0  # images with different numbers of segments
    expected_terms, expected = transformers_loss(queries, semantic_segments(target))
    value, terms = over_layers(queries, target)
    torch.testing.assert_close(value, expected, rtol=2e-5, atol=0)
    for ours, theirs in (("class", "loss_cross_entropy"), ("mask", "loss_mask"), ("dice", "loss_dice")):
        torch.testing.assert_close(terms[ours], expected_terms[theirs], rtol=2e-5, atol=0)
    for gradient, slope in zip(gradients(value, queries), gradients(expected, queries), strict=True):
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-7)


def test_on_points_at_the_centres_of_all_pixels_the_values_are_those_of_the_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of objects and of class maps alike."""
    queries, target = prediction(4, size=(12, 16)), regions(4, CLASSES, (2, 12, 16))
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    centres = torch.stack([(columns.flatten() + 0.5) / 16, (rows.flatten() + 0.5) / 12], dim=1)
    monkeypatch.setattr(mask_classification, "random_points", lambda count, *_: centres.expand(count, -1, -1))
    monkeypatch.setattr(layer_points, "random_points", lambda count, points, _: centres[:points].expand(count, -1, -1))
    whole = MaskClassificationLoss(mask_loss="bce")
    points = MaskClassificationLoss(mask_loss="bce", points=12 * 16, importance=0.0, oversampling=1.0)
    for truth in (target, semantic_segments(target)):
        for found, expected in zip(points.parts([queries], truth), whole.parts([queries], truth), strict=True):
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_ignored_pixels_are_no_points() -> None:
    target = regions(3, CLASSES, (2, 12, 16))
    target[:, 4:9, 3:11] = 255
    queries = prediction(3, size=(12, 16))
    noise = torch.randn(2, QUERIES, 12, 16, generator=torch.Generator().manual_seed(4)) / 100  # seems uncertain
    other = torch.where((target == 255)[:, None], noise, queries.mask_logits)
    loss = MaskClassificationLoss(mask_loss="bce", points=300)
    values = []
    for logits in (queries.mask_logits, other):
        torch.manual_seed(0)
        values.append(loss(QueryOutput(queries.class_logits, logits), target))
    assert values[0] == values[1]
    assert loss(queries, torch.full((2, 12, 16), 255)) == 0


def test_options_of_the_masks_are_checked() -> None:
    with pytest.raises(InputError, match="mask_loss is 'dice', expected focal or bce"):
        MaskClassificationLoss(mask_loss="dice")
    with pytest.raises(InputError, match=r"points is -1, oversampling 3\.0 and importance 0\.75, expected a"):
        MaskClassificationLoss(points=-1)


def test_instances_of_one_class_are_segments_of_their_own() -> None:
    queries = prediction(7)
    masks = torch.zeros(2, 3, 12, 16, dtype=torch.bool)
    masks[:, 0, :4], masks[:, 1, 4:8], masks[:, 2, 8:] = True, True, True
    valid = torch.ones(12, 16, dtype=torch.bool)
    segments = [Segments(torch.tensor([1, 1, 3]), masks[0], valid), Segments(torch.tensor([2, 0, 2]), masks[1], valid)]
    torch.testing.assert_close(
        over_layers(queries, segments)[0], transformers_loss(queries, segments)[1], rtol=2e-5, atol=0
    )


def test_an_image_without_segments_asks_for_no_objects() -> None:
    queries = prediction(8)
    valid = torch.ones(12, 16, dtype=torch.bool)
    empty = Segments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 12, 16, dtype=torch.bool), valid)
    segments = [empty, semantic_segments(regions(8, CLASSES, (1, 12, 16)))[0]]
    torch.testing.assert_close(
        over_layers(queries, segments)[0], transformers_loss(queries, segments)[1], rtol=2e-5, atol=0
    )
    for points in (0, 16):  # Mask2Former's are points
        loss = MaskClassificationLoss(points=points)
        (nothing,), (something,) = (loss.parts([queries], own) for own in ([empty, empty], segments))
        assert nothing["mask"] == nothing["dice"] == 0
        assert nothing["class"] > 0
        assert all(part > 0 for part in something.values())


def test_ignored_pixels_change_neither_value_nor_gradient() -> None:
    target = regions(3, CLASSES, (2, 12, 16))
    target[:, 4:9, 3:11] = 255
    queries = prediction(3, size=(12, 16))
    noise = 20 * torch.randn(2, QUERIES, 12, 16, generator=torch.Generator().manual_seed(4))

    def disturb(layer: QueryOutput) -> QueryOutput:
        other = torch.where((target == 255)[:, None], noise, layer.mask_logits).detach().requires_grad_()
        return QueryOutput(layer.class_logits, other, tuple(disturb(inner) for inner in layer.auxiliary))

    other = disturb(queries)
    value, other_value = over_layers(queries, target)[0], over_layers(other, target)[0]
    assert value == other_value
    for gradient, slope in zip(gradients(value, queries), gradients(other_value, other), strict=True):
        assert torch.equal(gradient, slope)
        assert gradient.ndim == 3 or not gradient[(target == 255)[:, None].expand_as(gradient)].any()


def test_a_batch_of_ignored_pixels_gives_zero_with_zero_gradient() -> None:
    queries = prediction(5)
    value = over_layers(queries, torch.full((2, 12, 16), 255))[0]
    assert value == 0
    assert not any(gradient.any() for gradient in gradients(value, queries))


def test_queries_and_images_may_come_in_any_order() -> None:
    queries, target = prediction(6, layers=0), regions(6, CLASSES, (2, 12, 16))
    loss, order = MaskClassificationLoss(), torch.randperm(QUERIES, generator=torch.Generator().manual_seed(6))
    value = loss(queries, target)
    torch.testing.assert_close(
        loss(QueryOutput(queries.class_logits[:, order], queries.mask_logits[:, order]), target), value
    )
    torch.testing.assert_close(
        loss(QueryOutput(queries.class_logits.flip(0), queries.mask_logits.flip(0)), target.flip(0)), value
    )


def test_perfect_queries_are_the_minimum() -> None:
    target = regions(9, CLASSES, (2, 12, 16))
    mask_logits, class_logits = torch.full((2, QUERIES, 12, 16), -60.0), torch.full((2, QUERIES, CLASSES + 1), -60.0)
    class_logits[:, CLASSES:, CLASSES] = 60
    for c in range(CLASSES):
        class_logits[:, c, c] = 60
        mask_logits[:, c][target == c] = 60
    assert float(MaskClassificationLoss()(QueryOutput(class_logits, mask_logits), target)) == pytest.approx(0, abs=1e-6)


def test_the_gradient_is_the_derivative() -> None:
    queries, target = prediction(10, images=1, layers=0, size=(3, 4)), regions(10, 3, (1, 4, 8))
    target[0, 0] = 255
    inputs = [tensor.detach()[:, :4].double().requires_grad_() for tensor in queries[:2]]
    assert torch.autograd.gradcheck(
        lambda a, b: MaskClassificationLoss()(QueryOutput(a, b), target), inputs, eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_50_are_finite(dtype: torch.dtype) -> None:
    queries, target = prediction(11, layers=1), regions(11, CLASSES, (2, 12, 16))

    def extreme(layer: QueryOutput) -> QueryOutput:
        halves = (tensor.detach().sign().mul(50).to(dtype).requires_grad_() for tensor in layer[:2])
        return QueryOutput(*halves, auxiliary=tuple(extreme(inner) for inner in layer.auxiliary))

    half = extreme(queries)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = over_layers(half, target)[0]
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(value, half))


def test_a_weighted_sum_takes_a_models_queries() -> None:
    queries, target = prediction(12), regions(12, CLASSES, (2, 12, 16))
    loss = create_loss({"mask_classification": {"weight": 2.0, "dice_weight": 3.0}})
    terms = loss.terms(queries, target)
    assert terms["mask_classification"] == MaskClassificationLoss(dice_weight=3.0)(queries, target)
    torch.testing.assert_close(loss(queries, target), 2 * terms["mask_classification"])
    with pytest.raises(
        InputError, match=r"output \(Tensor\) has nothing .* 'mask_classification' reads queries; choose"
    ):
        loss(torch.randn(2, CLASSES, 12, 16), target)
    with pytest.raises(InputError, match=r"output \(QueryOutput\) has nothing .* 'cross_entropy' reads logits; choose"):
        create_loss({"cross_entropy": 1.0})(queries, target)


def test_objects_are_the_segments_where_the_targets_have_some() -> None:
    queries, target = prediction(13), regions(13, CLASSES, (2, 12, 16))
    segments = semantic_segments(target.masked_fill(target == 2, 1))
    loss = create_loss({"mask_classification": 1.0})
    terms = loss.terms(queries, SegmentTargets(segments, target))
    assert terms["mask_classification"] == MaskClassificationLoss()(queries, segments)
    assert terms["mask_classification"] != MaskClassificationLoss()(queries, target)
    assert loss.terms(PixelOutput(torch.randn(2, CLASSES, 12, 16)), SegmentTargets(segments, target)) == {}


def test_labels_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match=r"labels \[7\] out of range, expected 2 images with labels 0..4"):
        MaskClassificationLoss()(prediction(0), torch.full((2, 12, 16), 7))
    with pytest.raises(InputError, match=r"target has 3 images"):
        MaskClassificationLoss()(prediction(0), torch.zeros(3, 12, 16, dtype=torch.int64))


def test_crowds_are_matched_with_nothing_and_their_pixels_are_ignored() -> None:
    queries = prediction(14)
    masks = torch.zeros(3, 12, 16, dtype=torch.bool)
    masks[0, :6], masks[1, 4:8], masks[2, 8:] = True, True, True
    valid = torch.ones(12, 16, dtype=torch.bool)
    valid[:, 0] = False
    crowd = Segments(torch.tensor([1, 2, 3]), masks, valid, crowd=torch.tensor([False, True, False]))
    without = Segments(torch.tensor([1, 3]), masks[[0, 2]], valid & ~(masks[1] & ~masks[0]))
    plain = Segments(torch.tensor([4]), masks[:1], valid)
    for given in (without, without_crowds(crowd)):
        for of_crowd, of_given in zip(
            *(
                MaskClassificationLoss().of_layers([queries, *queries.auxiliary], [one, plain])
                for one in (crowd, given)
            ),
            strict=True,
        ):
            torch.testing.assert_close(of_crowd, of_given, rtol=1e-6, atol=0)


WAITING = {
    *("_local_scalar_dense", "nonzero", "_unique2", "masked_select", "item", "equal"),
    *("index_put", "index_put_", "_index_put_impl_", "lift_fresh"),
}


class Waits(TorchDispatchMode):
    """Names of the operations that ask a tensor's values or send a number to it: each would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in tree_leaves(args[1:2])
        )
        if by_mask or name in WAITING:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"points": 50, "mask_loss": "bce"}])
@pytest.mark.parametrize("objects", [False, True])
def test_all_layers_and_images_of_a_step_are_matched_in_one_transfer(
    objects: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers: list[int] = []
    cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: (transfers.append(tensor.numel()), cpu(tensor))[1])
    monkeypatch.setattr(MaskClassificationLoss, "_check", lambda *_: None)  # of the CPU alone
    monkeypatch.setattr(Truth, "_all_valid", False)  # the same
    queries, target = prediction(15, images=3, layers=6), regions(3, CLASSES, (3, 12, 16))
    segments = [own._replace(crowd=torch.zeros(len(own.labels), dtype=torch.bool)) for own in semantic_segments(target)]
    loss = create_loss({"mask_classification": options})
    layers = [layer for _, layer in queries.layers((1.0,))]
    with Waits() as waits:
        terms = loss.terms_of_layers(layers, SegmentTargets(segments, target) if objects else target)
        torch.stack([term["mask_classification"] for term in terms]).sum().backward()
    assert waits.seen == ["lift_fresh"], "the pairs return, from pinned memory"
    places = max(len(own.labels) for own in segments) if objects else CLASSES
    assert transfers == [7 * 3 * QUERIES * places + 3 * places]
    for term, layer in zip(terms, [] if options else layers, strict=not options):  # points are drawn anew
        torch.testing.assert_close(term["mask_classification"], loss(layer, target), rtol=1e-6, atol=0)

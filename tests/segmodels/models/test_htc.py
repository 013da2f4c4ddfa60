"""HTC and DetectoRS: published counts, what each stage is trained on, how stages are averaged, and the second look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from object_scenes import DIGITS
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.registry import create_encoder
from segmodels.encoders.resnet import BasicBlock, ResNet
from segmodels.errors import InputError
from segmodels.inference.bundle import load_bundle, save_bundle
from segmodels.layers.anchors import encode
from segmodels.layers.cascade_heads import CODINGS, CascadeHeads, Context
from segmodels.layers.fpn import FPN
from segmodels.layers.matching import Objects
from segmodels.layers.roi_heads import HeadSettings, MaskSamples, RoIHeads
from segmodels.layers.rpn import RegionProposals
from segmodels.layers.sampling import Proposals, Samples, drawn_of
from segmodels.losses.points import PointsLoss
from segmodels.models.analysis import count_parameters, on_meta
from segmodels.models.detectors import DetectoRS
from segmodels.models.htc import points_of_cells
from segmodels.models.panet import AdaptiveHeads
from segmodels.models.registry import create_model
from segmodels.models.two_stage import SIDES
from segmodels.tasks.registry import create_task

SMALL: dict[str, Any] = {"encoder": "resnet18", "channels": 32, "hidden": 32, "samples": 16}
SIZE = (64, 64)


@pytest.mark.parametrize(("name", "count"), [("htc_r50_fpn", 80_258_293), ("detectors_r50", 134_754_552)])
def test_parameters_are_those_published_with_the_classes_of_coco_stuff(name: str, count: int) -> None:
    model, _ = on_meta(name, semantic_classes=183)
    assert count_parameters(model) == count


def heads() -> tuple[CascadeHeads, list[Tensor]]:
    """Heads of one class whose stages leave all boxes as they are, and a pyramid."""
    torch.manual_seed(0)
    found = CascadeHeads(1, HeadSettings(channels=4, hidden=8, samples=16))
    for stage in found.stages:
        torch.nn.init.zeros_(stage.deltas.weight)
        torch.nn.init.zeros_(stage.deltas.bias)
    return found, [torch.randn(1, 4, 16 >> level, 16 >> level) for level in range(4)]


@pytest.mark.parametrize("kind", ["mask_rcnn", "htc", "panet"])
def test_the_convolutions_of_every_second_stage_start_as_torchvisions(kind: str) -> None:
    """Normal weights by the number of outputs, biases 0: MaskRCNNHeads and MaskRCNNPredictor of torchvision 0.29."""
    torch.manual_seed(0)
    settings = HeadSettings(channels=32, hidden=8, box_convs=1)
    found = {
        "mask_rcnn": lambda: RoIHeads(7, settings),
        "htc": lambda: CascadeHeads(7, settings),
        "panet": lambda: AdaptiveHeads(7, settings, levels=2),
    }[kind]()
    convolutions = [layer for layer in found.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert any(layer.out_channels in (7, 8) for layer in convolutions)  # the masks of all classes
    for layer in convolutions:
        outputs = layer.weight[0].numel() if isinstance(layer, nn.ConvTranspose2d) else layer.weight[:, 0].numel()
        assert layer.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.25)
        assert not layer.bias.any()


OBJECT = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
# IoU with the object: 0.55, 0.65, 0.75, 0
PROPOSALS = torch.tensor([[10.0, 10, 32, 50], [10, 10, 36, 50], [10, 10, 40, 50], [52, 52, 60, 60]])


def truth(boxes: Tensor = OBJECT) -> Objects:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    masks[:, 10:50, 10:50] = True
    return Objects.of([boxes], [torch.zeros(len(boxes), dtype=torch.int64)], [masks], [torch.zeros(0, 4)])


def samples_of(
    cascade: CascadeHeads, pyramid: list[Tensor], context: Context | None, proposals: Tensor
) -> list[tuple[Samples, MaskSamples]]:
    torch.manual_seed(0)  # what is drawn
    usable = torch.ones(1, len(proposals), dtype=torch.bool)
    boxes = cascade.boxes_of_stages(pyramid, context, Proposals(proposals[None], usable), truth(), SIZE)
    drawn = drawn_of(*(draw for stage in boxes for draw in (stage.draw, stage.mask_draw)))
    return cascade.samples_of(pyramid, context, boxes, drawn, truth())


def test_every_stage_asks_for_a_larger_overlap_and_codes_boxes_more_finely() -> None:
    cascade, pyramid = heads()
    found = samples_of(cascade, pyramid, None, PROPOSALS)
    assert [int(boxes.labels.sum()) for boxes, _ in found] == [4, 3, 2]  # the object's own box is among them
    assert [len(logits) for _, (logits, *_) in found] == [4, 3, 2]
    for (boxes, (logits, shares, _)), worst, coding in zip(found, PROPOSALS[:3], CODINGS, strict=True):
        distance = (boxes.true_deltas - encode(OBJECT, worst[None], coding)).abs().amax(dim=1)
        assert distance.min() < 1e-5
        assert shares.shape == logits.shape == (len(logits), 28, 28)


def test_a_mask_is_trained_on_the_boxes_that_its_stage_has_refined() -> None:
    cascade, pyramid = heads()
    near = torch.tensor([[10.0, 10.0, 30.0, 50.0]])  # IoU 0.5
    with torch.no_grad():
        cascade.stages[0].deltas.bias.copy_(encode(OBJECT, near, CODINGS[0])[0])
    (_, (_, first, _)), *others = samples_of(cascade, pyramid, None, near)
    assert torch.equal(first[0], first[1])  # the box has become the object's own, the other
    assert [int(boxes.labels.sum()) for boxes, _ in others] == [2, 2]


def test_masks_of_a_stage_follow_from_the_stages_before() -> None:
    cascade, pyramid = heads()
    found = samples_of(cascade, pyramid, None, PROPOSALS)
    found[2][1][0].square().sum().backward()
    for number, stage in enumerate(cascade.stages):
        assert stage.mask_head[0].conv.weight.grad.abs().sum() > 0
        assert (stage.masks.weight.grad is None) == (number < 2)


def test_stages_are_averaged_and_the_context_is_added() -> None:
    cascade, pyramid = heads()
    with torch.no_grad():
        for number, stage in enumerate(cascade.stages):
            torch.nn.init.zeros_(stage.classes.weight)
            stage.classes.bias.copy_(torch.tensor([0.0, number]))
            torch.nn.init.zeros_(stage.masks.weight)
            stage.masks.bias.fill_(number)
        found = cascade.detect(pyramid, None, [PROPOSALS], SIZE)
        plain = samples_of(cascade, pyramid, None, PROPOSALS)
        context = Context(torch.ones(1, 4, 8, 8), torch.zeros(1, 2, 8, 8))
        raised = [x + 1 for x in pyramid]
        torch.nn.init.normal_(cascade.stages[0].classes.weight)
        (added, _), *_ = samples_of(cascade, pyramid, context, PROPOSALS[:2])
        (expected, _), *_ = samples_of(cascade, raised, None, PROPOSALS[:2])
    assert len(plain) == 3
    mean = torch.tensor([0.0, 1.0, 2.0]).sigmoid().mean()
    torch.testing.assert_close(found.scores[0], mean.expand(len(found.scores[0])))
    torch.testing.assert_close(found.masks[0].sigmoid(), mean.expand_as(found.masks[0]))
    torch.testing.assert_close(added.scores, expected.scores)


@pytest.mark.parametrize("size", [(64, 64), (50, 77), (3, 9)])
def test_the_context_learns_the_classes_of_pixels_at_the_centres_of_cells(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, *size), generator=generator).to(torch.uint8)
    target[0, : size[0] // 2] = 255
    logits = torch.randn(2, 3, 12, 12, generator=generator)
    points = points_of_cells(logits, size)
    rows, columns = (torch.arange(4, max(length, 5), 8).clamp(max=length - 1) for length in size)
    expected = functional.cross_entropy(
        logits[:, :, : len(rows), : len(columns)], target[:, rows][:, :, columns].long(), ignore_index=255
    )
    torch.testing.assert_close(PointsLoss()(points, target), expected)


def test_the_second_look_starts_as_the_first_and_then_reads_its_maps() -> None:
    torch.manual_seed(0)
    first, second = (ResNet(BasicBlock, (1, 1, 1, 1), switchable=True) for _ in range(2))
    parts = FPN(first.channels[1:], 8), RegionProposals(8, SIDES), CascadeHeads(2, HeadSettings(8, 8)), None
    model, images = DetectoRS(first, second, *parts, channels=8).eval(), torch.randn(1, 3, *SIZE)
    model.second.load_state_dict(model.encoder.state_dict(), strict=False)
    _, maps = model.pyramid(images)
    for x, first in zip(maps, model.fpn(model.encoder(images)[1:]), strict=True):
        torch.testing.assert_close(x, first, rtol=1e-4, atol=1e-4)
    parameters = list(model.feedback.parameters())
    assert all((own == 0).all() for own in torch.autograd.grad(maps[2].sum(), parameters, retain_graph=False))
    for layer in (model.second.layer2, model.second.layer3, model.second.layer4):
        torch.nn.init.normal_(layer[0].rfp_conv.weight, std=0.1)
    _, maps = model.pyramid(images)
    assert all((own != 0).any() for own in torch.autograd.grad(maps[2].sum(), parameters))


@pytest.mark.slow
def test_weights_of_plain_convolutions_load_into_both_looks(tmp_path: Path) -> None:
    plain = create_encoder("resnet18").eval()
    save_file(plain.state_dict(), tmp_path / "resnet18.safetensors")
    model = create_model("detectors_r50", 2, **SMALL, encoder_weights=tmp_path / "resnet18.safetensors").eval()
    images = torch.randn(1, 3, *SIZE)
    for encoder in (model.encoder, model.second):
        assert sum(name.endswith("weight_diff") for name, _ in encoder.named_parameters()) == 12
        for ours, theirs in zip(encoder(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_an_encoder_that_takes_no_feedback_is_refused() -> None:
    with pytest.raises(InputError, match="the encoder is a VGG, expected a ResNet"):
        create_model("detectors_r50", 2, **SMALL | {"encoder": "vgg16"})


def test_a_bundle_has_the_context_of_its_labels_and_predicts_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = SMALL | {"channels": 16, "hidden": 16, "detections": 5}
    task = create_task("instance", DIGITS)
    model = create_model("htc_r50_fpn", **task.model_arguments(DIGITS), **options).eval()
    assert model.context.logits.out_channels == DIGITS.num_classes
    facts = {"mean": (1, 2, 3), "std": (4, 5, 6), "lineage": {}}
    save_bundle(tmp_path, model, name="htc_r50_fpn", options=options, task=task, **facts)
    images = torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        found, expected = load_bundle(tmp_path).model(images), model(images)
    assert torch.equal(found.boxes[0], expected.boxes[0])
    assert torch.equal(found.masks[0], expected.masks[0])

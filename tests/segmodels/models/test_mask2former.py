"""Mask2Former against transformers: outputs of all layers and the loss on the same points for its weights."""

import os

import pytest
import torch
from query_references import (
    CLASSES,
    OUT,
    RESNET,
    SWIN,
    assert_same,
    drawn,
    labels_of,
    resnet,
    scene,
    swin,
    with_weights_of,
)
from torch import nn

from segmodels.layers import points as layers_points
from segmodels.layers.deformable_attention import DeformableAttention
from segmodels.losses import create_loss, mask_classification
from segmodels.models.mask2former import Mask2Former, visible
from segmodels.models.registry import model_entry
from segmodels.tasks.targets import SegmentTargets

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

POINTS = 48


def reference(body: str) -> nn.Module:
    backbone = transformers.SwinConfig(**SWIN, **OUT) if body == "swin" else transformers.ResNetConfig(**RESNET, **OUT)
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=64, mask_feature_size=32, hidden_dim=64, encoder_feedforward_dim=48,
        dim_feedforward=96, encoder_layers=2, decoder_layers=5, num_queries=7, num_labels=CLASSES,
        train_num_points=POINTS,
    )  # fmt: skip
    return drawn(transformers.Mask2FormerForUniversalSegmentation(config))


@pytest.mark.parametrize(("body", "size"), [("swin", (75, 92)), ("resnet", (64, 96))])
def test_outputs_and_losses_are_those_of_transformers_for_its_weights_and_points(body, size, tmp_path, monkeypatch):
    theirs = reference(body)
    small = {"queries": 7, "channels": 64, "mask_channels": 32, "pixel_layers": 2, "layers": 4, "hidden": (48, 96)}
    ours = with_weights_of(theirs, Mask2Former({"swin": swin, "resnet": resnet}[body](), CLASSES, **small), tmp_path)
    images, segments = scene(size)
    draws: list[torch.Tensor] = []
    rand = torch.rand
    with monkeypatch.context() as patch, torch.no_grad():
        torch.manual_seed(0)
        patch.setattr(torch, "rand", lambda *args, **options: draws.append(rand(*args, **options)) or draws[-1])
        expected = theirs(images, **labels_of(segments), output_auxiliary_logits=True)
    with torch.no_grad():
        evaluated = ours(images)
        assert evaluated.auxiliary == ()
        assert_same(evaluated, expected.class_queries_logits, expected.masks_queries_logits)
        ours.training = True  # the encoder as in evaluation
        output = ours(images)
        for own, other in zip(output.auxiliary, expected.auxiliary_logits, strict=True):
            assert_same(own, other["class_queries_logits"], other["masks_queries_logits"])

        # transformers draws layer by layer: for the matching of each image, then twice for the matched pairs
        of_layers = [draws[start : start + 4] for start in range(0, len(draws), 4)]
        assert len(of_layers) == 5
        prepared = [torch.cat(own[:2]) for own in of_layers] + [pairs for own in of_layers for pairs in own[2:]]

        def next_points(count: int, points: int, _device: torch.device) -> torch.Tensor:
            drawn_there = prepared.pop(0)
            assert drawn_there.shape == (count, points, 2)
            return drawn_there

        monkeypatch.setattr(mask_classification, "random_points", next_points)
        monkeypatch.setattr(layers_points, "random_points", next_points)
        (options,) = model_entry("mask2former_swin_t").card.losses.values()
        criterion = create_loss({"mask_classification": {**options, "points": POINTS}})
        targets = SegmentTargets(segments, torch.zeros(2, *size, dtype=torch.uint8))
        layers = [layer for _, layer in output.layers((1.0,))]
        total = sum(criterion.total(terms) for terms in criterion.terms_of_layers(layers, targets))
    assert not prepared
    torch.testing.assert_close(total, expected.loss, rtol=1e-4, atol=1e-4)


def test_a_query_without_pixels_in_its_mask_looks_everywhere():
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 1, :2, :2] = 1
    seen = visible(logits, (2, 2))
    assert seen.shape == (1, 1, 2, 4)
    assert seen[0, 0].tolist() == [[True] * 4, [True, False, False, False]]


def test_at_first_each_head_of_deformable_attention_looks_into_a_direction_of_its_own():
    bias = DeformableAttention(32, heads=4, levels=2, points=3).sampling_offsets.bias.unflatten(0, (4, 2, 3, 2))
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in range(3):
        for level in range(2):
            torch.testing.assert_close(bias[:, level, point], (point + 1) * directions)

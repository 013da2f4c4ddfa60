"""The least memory of a model: what it keeps for its backward pass is counted without running it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmodels.inference.memory import prediction_bytes, training_bytes
from segmodels.models.registry import create_model
from segmodels.outputs import PixelOutput


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """What a step of the model really keeps, weights and gradients included."""
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda own: kept.setdefault(id(own), own), lambda own: own):
        model.train()(images)
    weights = {own.data_ptr() for own in [*model.parameters(), *model.buffers()]}
    found = {own.untyped_storage().data_ptr(): own.untyped_storage().nbytes() for own in kept.values()}
    learned = sum(2 * own.nbytes for own in model.parameters() if own.requires_grad)
    return learned + sum(count for place, count in found.items() if place not in weights)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"widths": [4, 8]}),
        ("bisenet_v2", {}),
        ("segformer_b0", {}),
        ("maskformer_swin_t", {}),
        ("attention_unet_original", {"widths": [4, 8, 8], "in_channels": 1, "spatial_dims": 3}),
    ],
)
def test_a_step_keeps_what_was_counted(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3, **options)
    images = torch.randn(2, options.get("in_channels", 3), *[64, 64, 32][: options.get("spatial_dims", 2)])
    counted = training_bytes(model.eval(), images.shape)
    assert not model.training
    assert 0.9 * kept_bytes(model, images) <= counted <= 1.001 * kept_bytes(model, images)


def test_a_prediction_takes_at_least_the_maps_of_its_largest_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1, stride=2))
    assert prediction_bytes(model, (5, 3, 10, 20)) == 5 * (3 + 4) * 200 * 4
    twice = prediction_bytes(create_model("unet", 3, widths=[4, 8]), (2, 3, 64, 64))
    assert twice == 2 * prediction_bytes(create_model("unet", 3, widths=[4, 8]), (1, 3, 64, 64)) > 0


def test_attention_keeps_no_matrix_of_scores() -> None:
    vit = {"image_size": 64, "patch": 8, "out_blocks": [3, 6, 9, 12]}
    model = create_model("segmenter_t_mask", 3, encoder="vit_tiny", encoder_options=vit)
    images = torch.randn(1, 3, 160, 160)
    assert training_bytes(model, images.shape) == kept_bytes(model, images)


def test_a_prediction_counts_the_layers_before_the_first_that_needs_values() -> None:
    model = create_model("mask_rcnn_r50_fpn", 1)
    assert prediction_bytes(model, (1, 3, 512, 512)) > 512 * 512 * 64


def test_plain_tensors_of_a_model_are_none_of_its_memory_and_stay() -> None:
    class Plain(nn.Conv2d):
        def forward(self, images: Tensor) -> PixelOutput:
            self.count += 1
            return PixelOutput(super().forward(images + self.count))

    model = Plain(3, 2, 1)
    model.count = torch.zeros(1)
    assert training_bytes(model, (1, 3, 8, 8)) > 0 < prediction_bytes(model, (1, 3, 8, 8))
    assert model.count == 0


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn", "sam_tiny"])
def test_of_models_that_draw_by_targets_or_prompts_nothing_is_said(name: str) -> None:
    model = create_model(name, 1)
    assert training_bytes(model, (1, 3, 64, 64)) == 0


def test_a_model_that_needs_values_is_left_alone() -> None:
    class Asks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    assert training_bytes(Asks(), (1, 3, 8, 8)) == prediction_bytes(Asks(), (1, 3, 8, 8)) == 0


def test_a_model_that_cannot_be_copied_is_left_alone_and_no_draws_are_taken() -> None:
    class Draws(nn.Conv2d):
        def forward(self, images: Tensor) -> PixelOutput:
            return PixelOutput(super().forward(images) * torch.rand(1))

    model = Draws(3, 2, 1)
    before = torch.get_rng_state()
    assert training_bytes(model, (1, 3, 8, 8)) > 0 < prediction_bytes(model, (1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    model.lock = threading.Lock()
    assert training_bytes(model, (1, 3, 8, 8)) == prediction_bytes(model, (1, 3, 8, 8)) == 0

"""OCRNet: regions and attention against their formulas, which maps the heads read."""

import pytest
import torch

from segmodels.models.ocrnet import ObjectAttention, object_regions
from segmodels.models.registry import create_model


def test_regions_are_means_of_the_features_weighted_by_where_a_class_is():
    torch.manual_seed(0)
    features, scores = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 3, 4)
    regions = object_regions(features, scores)
    assert regions.shape == (2, 5, 3, 1)
    for image in range(2):
        for category in range(3):
            weights = scores[image, category].exp() / scores[image, category].exp().sum()
            torch.testing.assert_close(regions[image, :, category, 0], (features[image] * weights).sum(dim=(1, 2)))


def test_a_class_seen_at_one_position_has_its_features():
    features = torch.randn(1, 5, 3, 4)
    scores = torch.zeros(1, 2, 3, 4)
    scores[0, 1, 2, 3] = 100
    torch.testing.assert_close(object_regions(features, scores)[0, :, 1, 0], features[0, :, 2, 3])


def test_positions_attend_to_regions_by_scaled_products():
    torch.manual_seed(0)
    module = ObjectAttention(8, 4).eval()
    seen = {}
    module.out_project.register_forward_hook(lambda _module, inputs, _output: seen.update(context=inputs[0]))
    features, regions = torch.randn(2, 8, 3, 5), torch.randn(2, 8, 6, 1)
    with torch.no_grad():
        assert module(features, regions).shape == features.shape
        queries, keys, values = (
            module.query_project(features),
            module.key_project(regions)[..., 0],
            module.value_project(regions)[..., 0],
        )
    for image in range(2):
        for row in range(3):
            for column in range(5):
                scores = torch.stack([queries[image, :, row, column] @ keys[image, :, k] for k in range(6)]) / 4**0.5
                weights = scores.exp() / scores.exp().sum()
                torch.testing.assert_close(
                    seen["context"][image, :, row, column], values[image] @ weights, rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize(
    ("name", "encoder", "finest"), [("ocrnet_hr18s", "hrnet_w18_small", 4), ("ocrnet_r101_d8", "resnet18", 8)]
)
def test_stride_of_the_features_and_coarse_scores_in_training_only(name, encoder, finest):
    torch.manual_seed(0)
    model = create_model(name, 3, encoder=encoder).train()
    shapes = []
    model.object_context_block.register_forward_hook(
        lambda _module, inputs, _output: shapes.append(inputs[0].shape[-2:])
    )
    images = torch.randn(2, 3, 64, 96)
    (coarse,) = model(images).auxiliary
    assert coarse.shape == (2, 3, 64, 96)
    assert shapes == [(64 // finest, 96 // finest)]
    assert model.eval()(images).auxiliary == ()


def test_the_coarse_head_on_a_resnet_reads_the_map_before_the_last():
    torch.manual_seed(0)
    model = create_model("ocrnet_r101_d8", 2, encoder="resnet18").train()
    model(torch.randn(2, 3, 64, 64)).auxiliary[0].sum().backward()
    reached = {key.split(".")[0] for key, parameter in model.encoder.named_parameters() if parameter.grad is not None}
    assert reached == {"conv1", "bn1", "layer1", "layer2", "layer3"}


def test_the_loss_of_the_logits_trains_the_coarse_head_too():
    torch.manual_seed(0)
    model = create_model("ocrnet_hr18s", 2).train()
    model(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.coarse[0].conv.parameters())

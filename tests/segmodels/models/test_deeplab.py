"""DeepLab v1 to v3+: counts of the published forms, strides and dilations, the fusion of scales, the decoder's
wiring.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.layers.aspp import ASPP
from segmodels.models.analysis import count_gmac, on_meta
from segmodels.models.registry import create_model, model_entry


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]


def dilations(module: nn.Module) -> list[int]:
    return [layer.dilation[0] for layer in convolutions(module)]


# --- v1
# ------------------------------------------------------------------------------------------------------------


def test_v1_scores_every_eighth_pixel_with_dilated_last_convolutions():
    model, images = on_meta("deeplab_v1_large_fov", size=(321, 321))
    features = model.encoder(images)[-1]
    assert model.classifier(features).shape == (1, 21, 41, 41)
    assert dilations(model.encoder) == [1] * 10 + [2] * 3
    assert [(pool.kernel_size, pool.stride) for pool in model.encoder.modules() if isinstance(pool, nn.MaxPool2d)] == [
        (3, 2)
    ] * 3 + [(3, 1)] * 2
    assert dilations(model.classifier) == [12]


def test_v1_with_the_average_pool_of_the_release_has_the_same_weights():
    plain, images = on_meta("deeplab_v1_large_fov", size=(129, 129))
    pooled, _ = on_meta("deeplab_v1_large_fov", pool5a=True)
    assert list(pooled.state_dict()) == list(plain.state_dict())
    assert next(pooled.classifier.children()).kernel_size == 3
    assert pooled.eval()(images).logits.shape == plain.eval()(images).logits.shape


# --- v2
# ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def v2():
    torch.manual_seed(0)
    return create_model("deeplab_v2_resnet101", 3, encoder="resnet18").eval()


def test_v2_keeps_the_largest_score_of_three_scales_and_shows_each_in_training(v2):
    images = torch.randn(2, 3, 97, 81)
    with torch.no_grad():
        scores = []
        for scale in (1, 0.5, 0.75):
            scaled = F.interpolate(images, scale_factor=scale, mode="bilinear") if scale < 1 else images
            scores.append(F.interpolate(v2.classifier(v2.encoder(scaled)[-1]), (13, 11), mode="bilinear"))
        fused = torch.maximum(torch.maximum(scores[0], scores[1]), scores[2])
        torch.testing.assert_close(v2(images).logits, F.interpolate(fused, (97, 81), mode="bilinear"))
        assert not torch.allclose(fused, scores[0])

        for module in v2.modules():  # batch norm as in evaluation, so that the outputs of training can be compared
            module.training = not isinstance(module, nn.BatchNorm2d)
        auxiliary = v2(images).auxiliary
    assert len(auxiliary) == 3
    torch.testing.assert_close(auxiliary[0], F.interpolate(scores[0], (97, 81), mode="bilinear"))
    assert all(scores.shape == (2, 3, 97, 81) for scores in auxiliary)


def test_v2_leaves_out_copies_without_a_pixel(v2):
    with torch.no_grad():
        assert v2(torch.randn(1, 3, 1, 17)).logits.shape == (1, 3, 1, 17)


def test_v2_with_one_scale_has_no_auxiliary_outputs():
    model = create_model("deeplab_v2_resnet101", 3, encoder="resnet18", scales=[]).train()
    assert model(torch.randn(2, 3, 32, 32)).auxiliary == ()


def test_auxiliary_losses_weigh_as_where_the_heads_come_from():
    """v2: a loss of weight 1 on each scale and on their maximum (section 4.1.2); torchvision's training halves that of
    its auxiliary head; mmseg takes 0.4.
    """
    weights = {
        name: model_entry(name).card.auxiliary_weights
        for name in ("deeplab_v2_resnet101", "deeplab_v3_resnet50", "deeplab_v3_r50_d8")
    }
    assert weights == {"deeplab_v2_resnet101": (1.0,), "deeplab_v3_resnet50": (0.5,), "deeplab_v3_r50_d8": (0.4,)}


def test_v2_has_the_body_of_the_authors_release():
    """188.9 GMAC for one scale at 513 x 513, measured on the port that its weights are published for; strides in the
    3x3 convolutions would give 189.3.
    """
    model, images = on_meta("deeplab_v2_resnet101", scales=())
    assert round(count_gmac(model, images), 1) == 188.9
    assert dilations(model.encoder.layer3) == [2] * 23
    assert dilations(model.encoder.layer4) == [4] * 3
    assert [(block.conv1.stride, block.conv2.stride) for block in model.encoder.layer2[:2]] == [
        ((2, 2), (1, 1)),
        ((1, 1), (1, 1)),
    ]
    assert dilations(model.classifier) == [6, 12, 18, 24]


def test_batch_norm_can_be_frozen():
    model = create_model(
        "deeplab_v2_resnet101", 2, encoder="resnet18", encoder_options={"frozen_batch_norm": True}
    ).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- v3
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "gmac"),
    [("deeplab_v3_resnet50", 39_638_869, 178.72), ("deeplab_v3_resnet101", 58_630_997, 258.74)],
)
def test_counts_of_torchvision_without_and_with_its_auxiliary_head(name, count, gmac):
    without, images = on_meta(name, auxiliary=False)
    assert sum(parameter.numel() for parameter in without.parameters()) == count
    model, _ = on_meta(name)
    *_, middle, _ = model.encoder(images)
    assert round(count_gmac(model, images) + count_gmac(model.aux_classifier, middle), 2) == gmac


def test_keys_of_v3s_head_are_torchvisions():
    model, _ = on_meta("deeplab_v3_resnet50")
    keys = [
        key
        for key in model.state_dict()
        if key.startswith("classifier.") and "running" not in key and "tracked" not in key
    ]

    def layer(prefix: str, index: int) -> list[str]:
        return [
            f"classifier.{prefix}{index}.weight",
            f"classifier.{prefix}{index + 1}.weight",
            f"classifier.{prefix}{index + 1}.bias",
        ]

    branches = [key for branch in range(5) for key in layer(f"0.convs.{branch}.", 1 if branch == 4 else 0)]
    assert keys == [*branches, *layer("0.project.", 0), *layer("", 1), "classifier.4.weight", "classifier.4.bias"]


@pytest.mark.parametrize(
    ("options", "layer3", "layer4", "rates"),
    [
        ({}, [1, 2, 2, 2, 2, 2], [2, 4, 4], [12, 24, 36]),
        ({"output_stride": 16}, [1] * 6, [1, 2, 2], [6, 12, 18]),
        ({"output_stride": 16, "encoder_options": {"multi_grid": [1, 2, 4]}}, [1] * 6, [2, 4, 8], [6, 12, 18]),
        (
            {"output_stride": 8, "encoder_options": {"multi_grid": [1, 2, 4]}},
            [1, 2, 2, 2, 2, 2],
            [4, 8, 16],
            [12, 24, 36],
        ),
    ],
)
def test_v3_dilates_by_output_stride_and_multi_grid(options, layer3, layer4, rates):
    model, images = on_meta("deeplab_v3_resnet50", size=(128, 128), **options)
    assert dilations(model.encoder.layer3) == layer3
    assert dilations(model.encoder.layer4) == layer4
    assert dilations(model.classifier[0]) == rates
    stride = options.get("output_stride", 8)
    assert model.encoder(images)[-1].shape[-2:] == (128 // stride, 128 // stride)


def test_mmsegs_v3_pools_first_and_projects_by_a_3x3():
    model, _ = on_meta("deeplab_v3_r50_d8")
    aspp, scores = model.classifier
    assert isinstance(aspp.convs[0][0], nn.AdaptiveAvgPool2d)
    assert (aspp.project[0].kernel_size, aspp.project[0].in_channels, scores.kernel_size) == ((3, 3), 5 * 512, (1, 1))
    assert dilations(model.encoder.layer4) == [2, 4, 4]


@pytest.mark.parametrize(
    "name", ["deeplab_v3_r50_d8", "deeplab_v3_plus_resnet50", "deeplab_v3_plus_r50_d8", "deeplab_v2_resnet101"]
)
def test_rates_output_stride_and_multi_grid_are_options(name):
    model, images = on_meta(name, size=(128, 128), output_stride=16, rates=[2, 4, 6])
    assert model.encoder.strides[-1] == 16
    assert model.eval()(images).logits.shape[-2:] == (128, 128)
    head = getattr(model, "aspp", None) or model.classifier
    assert [rate for rate in dilations(head) if rate > 1] == [2, 4, 6]
    if name != "deeplab_v2_resnet101":
        gridded, _ = on_meta(name, size=(128, 128), output_stride=16, multi_grid=[1, 2, 4])
        assert dilations(gridded.encoder.layer4) == [2, 4, 8]


@pytest.mark.parametrize(
    "name",
    [
        "fcn_r50_d8",
        "pspnet_r50_d8",
        "encnet_r50_d8",
        "psanet_r50_d8",
        "apcnet_r50_d8",
        "dmnet_r50_d8",
        "ocrnet_r101_d8",
    ],
)
def test_the_output_stride_of_dilated_models_is_an_option(name):
    model, images = on_meta(name, size=(128, 128), output_stride=16)
    assert model.encoder.strides == (2, 4, 8, 16, 16)
    assert model.eval()(images).logits.shape[-2:] == (128, 128)


def test_dropout_of_mmsegs_heads_leaves_out_channels_and_torchvisions_elements():
    def kinds(name):
        model, _ = on_meta(name)
        return [type(layer) for layer in model.modules() if "Dropout" in type(layer).__name__]

    assert kinds("deeplab_v3_r50_d8") == [nn.Dropout2d, nn.Dropout2d]
    assert kinds("pspnet_r50_d8") == [nn.Dropout2d, nn.Dropout2d]
    assert kinds("deeplab_v3_resnet50") == [nn.Dropout, nn.Dropout]
    assert kinds("fcn_resnet50") == [nn.Dropout, nn.Dropout]


# --- v3+
# ------------------------------------------------------------------------------------------------------------


def test_v3_plus_on_xception_works_at_stride_16_with_the_papers_rates():
    model, images = on_meta("deeplab_v3_plus_xception65", size=(128, 128))
    maps = model.encoder(images)
    assert maps[-1].shape == (1, 2048, 8, 8)
    assert dilations(model.aspp) == [6, 12, 18]
    assert model.reduce(maps[model.fine]).shape == (1, 48, 32, 32)
    entry = []
    second = model.encoder.blocks[1].stack
    second.conv2.register_forward_hook(lambda _module, _inputs, output: entry.append(output))
    assert model.encoder(images)[1].shape == entry[0].shape == (1, 256, 32, 32), (
        "the release's block2 before its stride"
    )
    dilated = [layer.dilation[0] for layer in convolutions(model.encoder.blocks)]
    assert dilated == [1] * (3 * 20) + [2] * 3  # only the last block lies behind the stride that was left out


def test_decoder_convolutions_are_separable_with_relu_after_both():
    model, _ = on_meta("deeplab_v3_plus_resnet50")
    assert [(layer.in_channels, layer.groups) for layer in convolutions(model.decoder)] == [(304, 304), (256, 256)]
    assert sum(isinstance(layer, nn.ReLU) for layer in model.decoder.modules()) == 4


@pytest.mark.parametrize("name", ["deeplab_v3_plus_resnet50", "deeplab_v3_plus_r50_d8"])
def test_decoder_joins_coarse_context_and_the_map_at_stride_4(name):
    """With one of both inputs of the decoder at zero it gives what the plain formula gives for the other."""
    torch.manual_seed(0)
    model = create_model(name, 2, encoder="resnet18").eval()
    images = torch.randn(1, 3, 64, 96)
    maps = model.encoder(images)
    channels = model.aspp.channels
    depthwise = model.decoder[0][0].weight
    with torch.no_grad():
        context = F.interpolate(model.aspp(maps[-1]), (16, 24), mode="bilinear")
        fine = model.reduce(maps[1])
        for kept, start, stop in ((context, 0, channels), (fine, channels, channels + 48)):
            weight = depthwise.clone()
            depthwise[:start] = depthwise[stop:] = 0
            x = torch.zeros(1, channels + 48, 16, 24)
            x[:, start:stop] = kept
            expected = F.interpolate(model.conv_seg(model.decoder(x)), (64, 96), mode="bilinear")
            torch.testing.assert_close(model(images).logits, expected)
            depthwise.copy_(weight)


def test_auxiliary_head_of_v3_plus_reads_the_map_before_the_last():
    torch.manual_seed(0)
    model = create_model("deeplab_v3_plus_r50_d8", 2, encoder="resnet18").train()
    model(torch.randn(2, 3, 64, 64)).auxiliary[0].sum().backward()
    reached = {key.split(".")[0] for key, parameter in model.encoder.named_parameters() if parameter.grad is not None}
    assert reached == {"conv1", "bn1", "layer1", "layer2", "layer3"}


def test_encoders_of_other_families_carry_the_same_heads():
    model = create_model("deeplab_v3_plus_xception65", 2, encoder="mobilenet_v2").eval()
    assert isinstance(model.aspp, ASPP)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 65, 49)).logits.shape == (1, 2, 65, 49)

"""Encoders: maps, strides, dilations, freezing, names."""

import sys
import types
from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.mscan import Block, MultiScaleConvAttention
from segmodels.encoders.registry import create_encoder, list_encoders
from segmodels.errors import InputError


@cache
def without_memory(name: str) -> Encoder:
    """An encoder on the meta device, made once for all tests that only look."""
    with torch.device("meta"):
        return create_encoder(name)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- maps
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_encoders())
def test_maps_have_the_channels_and_strides_that_the_encoder_states(name):
    with torch.device("meta"):
        encoder = create_encoder(name, in_channels=2).eval()
        maps = encoder(torch.empty(1, 2, 128, 192))
    assert len(encoder.channels) == len(encoder.strides) == len(encoder.stages()) == len(maps)
    for features, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert features.shape == (1, channels, 128 // stride, 192 // stride)


@pytest.mark.parametrize("name", list_encoders())
def test_stages_hold_every_parameter_once(name):
    encoder = without_memory(name)
    held = [id(parameter) for stage in encoder.stages() for module in stage for parameter in module.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in encoder.parameters())


@pytest.mark.parametrize("name", list_encoders())
def test_wrong_channels_and_output_strides_are_named(name):
    encoder = without_memory(name)
    with torch.device("meta"):
        with pytest.raises(InputError, match=r"\(1, 4, 64, 64\), expected \(B, 3, H, W\)"):
            encoder(torch.empty(1, 4, 64, 64))
        with pytest.raises(InputError, match=r"output_stride of .* is 7, expected"):
            create_encoder(name, output_stride=7)


# Parameters without the classifier. ResNet, VGG and MobileNet: torchvision's published totals less the layers after the
# last map; HRNet and MSCAN: bodies of mmseg's ocrnet and segnext, measured.
PUBLISHED = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
    "efficientnet_lite0": 4_652_008 - (1280 * 1000 + 1000) - (320 * 1280 + 2 * 1280),  # timm's total
    "mobilenet_v2": 3_504_872 - (1280 * 1000 + 1000) - (320 * 1280 + 2 * 1280),
    "hrnet_w18_small": 3_860_720,
    "hrnet_w18": 9_562_260,
    "hrnet_w48": 65_325_120,
    "mscan_t": 3_903_584,
    "mscan_s": 13_450_176,
    "mscan_b": 26_277_824,
    "mscan_l": 44_636_864,
    "vgg16": 138_357_544 - (25_088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000),
    "vgg16_bn": 138_365_992 - (25_088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000),
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_are_those_published(name, count):
    assert parameters(without_memory(name)) == count


def test_xception65_has_the_39_92_million_parameters_that_timm_publishes_with_its_classifier():
    with torch.device("meta"):
        assert round((parameters(create_encoder("xception65")) + 2_049_000) / 1e6, 2) == 39.92


def test_xception65_gives_deeplabs_decoder_the_second_convolution_of_the_second_entry_block():
    """``entry_flow/block2/unit_1/xception_module/separable_conv2_pointwise`` of the authors' release."""
    with torch.device("meta"):
        encoder, images, seen = create_encoder("xception65"), torch.empty(2, 3, 64, 64), []
    encoder.get_submodule("blocks.1.stack.conv2").register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    maps = encoder(images)
    assert maps[1] is seen[0]
    assert maps[1].shape == (2, 256, 16, 16)


def test_deep_stem_has_the_count_of_the_reference():
    with torch.device("meta"):
        assert parameters(create_encoder("resnet50", deep_stem=True)) == 23_527_264
        assert parameters(create_encoder("resnet101", deep_stem=True)) == 42_519_392


# --- strides and dilations
# ------------------------------------------------------------------------------------------------------------


def resnet_dilations(**options: object) -> list[list[int]]:
    """Dilation of the 3x3 convolution of each bottleneck of layers 3 and 4 of ResNet-50."""
    with torch.device("meta"):
        encoder = create_encoder("resnet50", **options)
    return [[block.conv2.dilation[0] for block in layer] for layer in (encoder.layer3, encoder.layer4)]


def test_dilation_of_resnet_is_contracted_as_in_torchvision_unless_asked_otherwise():
    assert resnet_dilations(output_stride=32) == [[1] * 6, [1] * 3]
    assert resnet_dilations(output_stride=16) == [[1] * 6, [1, 2, 2]]
    assert resnet_dilations(output_stride=8) == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    assert resnet_dilations(output_stride=8, contract_dilation=False) == [[2] * 6, [4] * 3]
    assert resnet_dilations(output_stride=16, multi_grid=(1, 2, 4)) == [[1] * 6, [2, 4, 8]]


def halved_stride(name: str, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The last map of an encoder at output stride 32 and, with the same weights, every second position of it at 16."""
    torch.manual_seed(0)
    strided = create_encoder(name, output_stride=32).eval()
    dilated = create_encoder(name, output_stride=16, **options).eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        return strided(images)[-1], dilated(images)[-1][..., ::2, ::2]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "xception65"])
def test_dilation_in_place_of_a_stride_keeps_what_the_strided_network_computes(name):
    """The à trous algorithm: where only the layers after the lost stride dilate, each strided output is found again at
    its position.
    """
    strided, dilated = halved_stride(name)
    scale = strided.abs().max().item()
    torch.testing.assert_close(strided, dilated, rtol=1e-4, atol=1e-5 * scale)
    assert not torch.allclose(
        strided, strided.mean(dim=(2, 3), keepdim=True).expand_as(strided), rtol=1e-2, atol=1e-2 * scale
    ), "a flat map shows nothing"


def test_uniform_dilation_is_another_network():
    strided, dilated = halved_stride("resnet50", contract_dilation=False)
    assert not torch.allclose(strided, dilated, rtol=1e-2, atol=1e-2)


def test_vgg_with_a_smaller_output_stride_pools_without_striding_and_dilates_the_last_convolutions():
    with torch.device("meta"):
        encoder = create_encoder("vgg16", output_stride=8, pool=3)
    convolutions = [layer for layer in encoder.features if isinstance(layer, nn.Conv2d)]
    pools = [layer for layer in encoder.features if isinstance(layer, nn.MaxPool2d)]
    assert [layer.dilation[0] for layer in convolutions] == [1] * 10 + [2] * 3
    assert [(layer.kernel_size, layer.stride, layer.padding) for layer in pools] == [(3, 2, 1)] * 3 + [(3, 1, 1)] * 2
    assert encoder.strides == (2, 4, 8, 8, 8)


def test_keys_of_vgg_are_torchvisions():
    with torch.device("meta"):
        plain, normalised = create_encoder("vgg16"), create_encoder("vgg16_bn")
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert list(plain.state_dict()) == [f"features.{i}.{part}" for i in convolutions for part in ("weight", "bias")]
    convolutions = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert {key.split(".")[1] for key in normalised.state_dict() if key.endswith("running_var")} == {
        str(i + 1) for i in convolutions
    }


def test_hrnet_keeps_its_finest_branch_and_every_map_hears_of_every_branch():
    encoder = create_encoder("hrnet_w18_small").eval()
    images = torch.randn(1, 3, 64, 64)
    for i in range(4):
        encoder.zero_grad()
        encoder(images)[i].square().sum().backward()
        for branch in range(4):
            gradient = encoder.stage4[0].branches[branch][0].conv1.weight.grad
            assert gradient.abs().max() > 0, f"map {i} does not depend on branch {branch}"


def test_the_strips_of_mscan_see_21_pixels_and_the_square_5():
    """Receptive field of the attention by gradient: a 25 x 25 cross of strips around a 5 x 5 square."""
    attention = MultiScaleConvAttention(2)
    for parameter in attention.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 2, 41, 41, requires_grad=True)
    gate = attention.conv3(attention.conv2_2(attention.conv2_1(attention.conv0(x))))
    (seen,) = torch.autograd.grad(gate[0, 0, 20, 20], x)
    rows, columns = (seen[0].sum(0) > 0).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 32, 8, 32)
    (seen,) = torch.autograd.grad(attention.conv0(x)[0, 0, 20, 20], x)
    rows, _ = (seen[0].sum(0) > 0).nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (18, 22)
    strips = [
        (getattr(attention, f"conv{i}_1").kernel_size, getattr(attention, f"conv{i}_2").kernel_size) for i in range(3)
    ]
    assert strips == [((1, 7), (7, 1)), ((1, 11), (11, 1)), ((1, 21), (21, 1))]


def test_stochastic_depth_leaves_out_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    block = Block(2, 4, drop_path=0.25).train()
    kept = block.drop_path(torch.ones(4000, 2, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(kept.mean().item() - 1) < 0.05
    assert torch.equal(block.eval().drop_path(torch.ones(3, 2, 1, 1)), torch.ones(3, 2, 1, 1))


# --- freezing
# ------------------------------------------------------------------------------------------------------------


def test_frozen_stages_keep_weights_and_statistics_while_the_rest_trains():
    torch.manual_seed(0)
    encoder = create_encoder("resnet18", frozen_stages=2).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD((p for p in encoder.parameters() if p.requires_grad), 0.1)
    encoder(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"layer2", "layer3", "layer4"}
    with pytest.raises(InputError, match="stages to freeze is 6, expected 0 to 5"):
        create_encoder("resnet18", frozen_stages=6)


def test_frozen_batch_norm_is_the_same_in_training_and_evaluation():
    torch.manual_seed(0)
    encoder = create_encoder("resnet18", frozen_batch_norm=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        training, evaluation = encoder.train()(images), encoder.eval()(images)
    assert all(torch.equal(one, other) for one, other in zip(training, evaluation, strict=True))
    assert encoder.state_dict().keys() == create_encoder("resnet18").state_dict().keys()


# --- names, options, timm
# ------------------------------------------------------------------------------------------------------------


def test_unknown_encoders_and_options_name_the_nearest():
    with pytest.raises(InputError, match=r"unknown encoder 'resnet51': did you mean .*'resnet50'"):
        create_encoder("resnet51")
    with pytest.raises(InputError, match=r"unknown option 'deep_stm' of encoder 'resnet50': did you mean 'deep_stem'"):
        create_encoder("resnet50", deep_stm=True)


@pytest.mark.skipif("timm" in sys.modules, reason="timm is installed and imported")
def test_without_timm_one_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match=r"'timm:convnext_tiny' needs timm, which is not installed: pip install 'segmodels\[timm\]'"
    ):
        create_encoder("timm:convnext_tiny")


class FakeTimmBody(nn.Module):
    """The interface of a timm ``features_only`` model: ``feature_info`` and a list of maps, here with channels last as
    Swin's.
    """

    output_fmt = "NHWC"

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 8, 4, 4)
        self.deep = nn.Conv2d(8, 16, 2, 2)
        self.feature_info = types.SimpleNamespace(channels=lambda: [8, 16], reduction=lambda: [4, 8])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images)
        return [x.permute(0, 2, 3, 1), self.deep(x).permute(0, 2, 3, 1)]


def test_a_timm_encoder_keeps_the_contract_of_encoders(monkeypatch, tmp_path):
    """timm itself is not a dependency of the tests: a module with its interface stands for it."""
    calls = []

    def create_model(name: str, features_only: bool, in_chans: int, **options: object) -> nn.Module:
        calls.append((name, features_only, in_chans, options))
        if "output_stride" in options:
            raise NotImplementedError("output_stride")
        return FakeTimmBody(in_chans)

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    save_file(FakeTimmBody(3).state_dict(), tmp_path / "weights.safetensors")
    encoder = create_encoder("timm:swin_tiny", weights=tmp_path / "weights.safetensors", frozen_stages=1, img_size=64)
    assert calls == [("swin_tiny", True, 3, {"img_size": 64})]
    assert [tuple(features.shape) for features in encoder(torch.zeros(2, 3, 32, 64))] == [(2, 8, 8, 16), (2, 16, 4, 8)]
    assert (encoder.channels, encoder.strides) == ((8, 16), (4, 8))
    with pytest.raises(InputError, match="timm cannot build 'swin_tiny' with in_channels 3, output_stride 8"):
        create_encoder("timm:swin_tiny", output_stride=8)


def test_a_timm_encoder_of_fixed_size_says_which_option_changes_it(monkeypatch):
    class FixedSize(FakeTimmBody):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            assert images.shape[-1] == 224, "Input width (64) doesn't match model (224)."
            return super().forward(images)

    timm = types.SimpleNamespace(create_model=lambda *_, in_chans, **__: FixedSize(in_chans))
    monkeypatch.setitem(sys.modules, "timm", timm)
    encoder = create_encoder("timm:swin_tiny")
    with pytest.raises(InputError, match=r"swin_tiny does not take images of 32 x 64 pixels .*img_size: \[32, 64\]"):
        encoder(torch.zeros(2, 3, 32, 64))

"""A body is the encoder of a model as a value: users change its parts, models add what they need."""

from typing import Any

import pytest
import torch
from torch import Tensor

from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.encoders.registry import create_encoder
from segmodels.errors import InputError
from segmodels.models.registry import create_model, model_body, model_options
from segmodels.models.semantic_fpn import SemanticFPN

CAFFE = {"contract_dilation": False, "stride_in_1x1": True, "ceil_mode": True}


def test_the_options_of_a_body_win_over_those_that_a_model_sets() -> None:
    with torch.device("meta"):
        plain = Body("resnet18").build(4, 16, **DEEP_STEM)
        chosen = Body("resnet18", options={"deep_stem": False}).build(4, 16, **DEEP_STEM)
    assert plain.conv1[0].weight.shape == (32, 4, 3, 3)
    assert chosen.conv1.weight.shape == (64, 4, 7, 7)
    assert plain.strides == (2, 4, 8, 16, 16)


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        (Body("resnet50", options=DEEP_STEM), {}, Body("resnet50", options=DEEP_STEM)),
        (Body("resnet50", options=DEEP_STEM), {"encoder": "resnet18"}, Body("resnet18", options=DEEP_STEM)),
        (Body("resnet50", options=DEEP_STEM), {"encoder": "mobilenet_v2"}, Body("mobilenet_v2")),
        (Body("resnet101", options=CAFFE), {"encoder": "vgg16"}, Body("vgg16")),
        (Body("resnet50", options=DEEP_STEM), {"encoder": "timm:resnet50"}, Body("timm:resnet50")),
        (
            Body("resnet50", options=DEEP_STEM),
            {"encoder_options": {"deep_stem": False, "frozen_stages": 1}},
            Body("resnet50", options={"deep_stem": False, "frozen_stages": 1}),
        ),
        (Body("vgg16"), {"encoder_weights": "a.pth", "encoder_options": None}, Body("vgg16", "a.pth")),
        (Body("vgg16", "a.pth"), {"encoder": "vgg16_bn"}, Body("vgg16_bn")),
        (
            Body("vgg16", "a.pth"),
            {"encoder_options": {"frozen_stages": 1}},
            Body("vgg16", "a.pth", {"frozen_stages": 1}),
        ),
    ],
)
def test_another_encoder_of_the_architecture_keeps_the_options(
    body: Body, changes: dict[str, Any], expected: Body
) -> None:
    assert body.replaced(**changes) == expected


def test_a_model_takes_a_body_or_its_parts() -> None:
    assert model_body("pspnet_r50_d8") == Body("resnet50", options=DEEP_STEM)
    assert model_body("pspnet_r50_d8", encoder="resnet18") == Body("resnet18", options=DEEP_STEM)
    assert model_body("pspnet_r50_d8", body=Body("resnet18"), encoder_options={"ceil_mode": True}) == Body(
        "resnet18", options={"ceil_mode": True}
    )
    assert model_body("unet") is None
    assert model_options("pspnet_r50_d8") == {
        "in_channels": 3,
        "encoder": "resnet50",
        "encoder_weights": None,
        "encoder_options": {"deep_stem": True},
        "output_stride": 8,
        "auxiliary": True,
        "weights": None,
    }
    with torch.device("meta"):
        parts = create_model("pspnet_r50_d8", 3, encoder="resnet18", encoder_options={"deep_stem": False})
        whole = create_model("pspnet_r50_d8", 3, body=Body("resnet18"))
    assert parts.encoder.conv1.weight.shape == whole.encoder.conv1.weight.shape == (64, 3, 7, 7)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder": "resnet81"}, "unknown encoder 'resnet81'"),
        (
            {"encoder_options": "deep_stem"},
            "'encoder_options' of model 'pspnet_r50_d8' is 'deep_stem', expected an object",
        ),
        (
            {"encoder_option": {}},
            "unknown option 'encoder_option' of model 'pspnet_r50_d8': did you mean 'encoder_options'",
        ),
    ],
)
def test_bodies_that_cannot_be_built_are_rejected(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        create_model("pspnet_r50_d8", 3, **options)


@pytest.mark.parametrize("name", ["fcn8s_vgg16", "segnet", "deeplab_v1_large_fov"])
def test_models_of_the_layers_of_vgg_take_no_other_encoder(name: str) -> None:
    with torch.device("meta"):
        create_model(name, 3, encoder="vgg16_bn", encoder_options={"frozen_stages": 2})
        with pytest.raises(InputError, match=r"is ResNet, expected VGG-16.*: set encoder to vgg16"):
            create_model(name, 3, encoder="resnet18")


def test_maps_are_found_by_their_strides() -> None:
    encoder = create_encoder("resnet18", output_stride=16).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        maps = encoder(images)
        sixteenth, quarter = encoder.maps(images, (16, 4))
    assert torch.equal(sixteenth, maps[-1]), "two maps have stride 16, the last is taken"
    assert torch.equal(quarter, maps[1])
    assert encoder.channels_at((16, 4)) == [512, 64]
    with pytest.raises(InputError, match="ResNet has maps at the strides 2, 4, 8, 16, 16, expected one at stride 32"):
        encoder.maps(images, (4, 32))


def test_a_model_that_reads_a_stride_which_the_encoder_lacks_is_rejected_when_it_is_built() -> None:
    with pytest.raises(InputError, match="expected one at stride 16, which the model reads"):
        SemanticFPN(create_encoder("resnet18", output_stride=8), 3, torch.nn.BatchNorm2d, dropout=0.1)


def test_adapting_changes_what_cannot_fit_and_nothing_else() -> None:
    encoder = create_encoder("resnet18", in_channels=1)
    state: dict[str, Tensor] = {"conv1.weight": torch.rand(64, 3, 7, 7), "bn1.weight": torch.rand(64)}
    adapted = encoder.adapt(state)
    assert adapted["conv1.weight"].shape == (64, 1, 7, 7)
    assert adapted["bn1.weight"] is state["bn1.weight"]
    assert encoder.adapt({"bn1.weight": state["bn1.weight"]}).keys() == {"bn1.weight"}

"""What a model cannot be built with or run on is refused in one sentence that says what to do instead."""

from typing import Any

import pytest
import torch

from segmodels.errors import InputError
from segmodels.models.registry import create_model


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("unett", {}, "unknown model 'unett': did you mean 'unet'"),
        ("UNet++", {}, r"unknown model 'UNet\+\+': did you mean 'unet_plus_plus'\?$"),
        (
            "Swin-Tiny",
            {},
            "unknown model 'Swin-Tiny': swin_tiny is an encoder, which many models take as their option encoder,"
            " expected the name of a model, such as maskformer_swin_t or mask2former_swin_t or knet_upernet_swin_t$",
        ),
        (
            "vit_b16",
            {},
            "unknown model 'vit_b16': did you mean encoder 'vit_base' or 'r50_vit_base' or 'sam_vit_base', which many"
            r" models take as their option encoder\?$",
        ),
        (
            "pspnet_r50_d8",
            {"encoder": "unet"},
            "unknown encoder 'unet': unet is a model, which train.model takes, expected the name of an encoder$",
        ),
        ("unet", {"width": [4, 8]}, "unknown option 'width' of model 'unet': did you mean 'widths'"),
        (
            "unet",
            {"num_classes": 1},
            "num_classes is 1, expected at least 2: a binary task has the classes background and object",
        ),
        ("unet", {"in_channels": 0}, "in_channels is 0, expected at least 1"),
        ("unet_original", {"dropout": 1}, "dropout is 1, expected from 0 to below 1"),
        ("wnet", {"dropout": -0.1}, "dropout is -0.1, expected from 0 to below 1"),
        ("pspnet_r50_d8", {"encoder": "resnet81"}, "unknown encoder 'resnet81': did you mean .*'resnet18'"),
        ("pspnet_r50_d8", {"encoder": "hrnet_w18"}, "output_stride of HRNet is 8, expected 32"),
        (
            "pspnet_r50_d8",
            {"encoder": "resnet18", "encoder_options": {"deep_stm": True}},
            "unknown option 'deep_stm' of encoder 'resnet18': did you mean 'deep_stem'",
        ),
        (
            "pspnet_r50_d8",
            {"encoder": "resnet18", "encoder_options": {"output_stride": 16}},
            "output_stride is among the options of encoder 'resnet18', but the model sets it",
        ),
        (
            "unet_resnet34",
            {"frozen_stages": 2},
            r"option 'frozen_stages' of model 'unet_resnet34' belongs to its encoder: give it as encoder_options"
            r" \{frozen_stages: 2\}",
        ),
        ("unet", {"encoder_weights": "a.pth"}, "encoder_weights of model 'unet' is given without an encoder"),
        (
            "unet",
            {"encoder": "resnet18", "widths": [4, 8]},
            "but encoder 'resnet18' has its own: leave out widths, or take model unet_resnet34",
        ),
        ("unet_resnet34", {"decoder_widths": [8, 4]}, r"decoder_widths is \[8, 4\], expected at least 5"),
        (
            "unet_plus_plus",
            {"encoder": "resnet18", "level": 2},
            "unet_plus_plus on encoder 'resnet18' got .* which are of its own encoder: leave them out",
        ),
        ("deeplab_v3_resnet50", {"encoder": "resnet18", "rates": [0, 6]}, "rates of ASPP is 0, 6, expected numbers of"),
        ("deeplab_v2_resnet101", {"encoder": "resnet18", "rates": []}, "rates of ASPP is empty, expected numbers of"),
        (
            "fcn_resnet50",
            {"encoder_options": {"multi_grid": [1, -1]}},
            "multi_grid is 1, -1, expected numbers of at least",
        ),
        ("mask2former_r50", {"encoder": "resnet18", "queries": 0}, "queries is 0, expected a number of at least 1"),
        ("segmenter_t_mask", {"encoder_options": {"patch": 0}}, "patch of ViT is 0, expected a number of at least 1"),
        (
            "segmenter_t_mask",
            {"encoder_options": {"layer_decay": 0}},
            "layer_decay is 0, expected above 0 and at most 1",
        ),
        ("segformer_b0", {"encoder_options": {"drop_path": 1.5}}, "drop_path is 1.5, expected from 0 to below 1"),
        (
            "sam_tiny",
            {"encoder_options": {"out_channels": 0}},
            "out_channels of SamViT is 0, expected a number of at least 1",
        ),
        (
            "unet",
            {"encoder": "mit_b0", "encoder_weights": "resnet50:imagenet1k_v2"},
            "weights resnet50:imagenet1k_v2 are of resnet50, not of mit_b0: choose one of mit_b0:imagenet1k",
        ),
        ("sam_b", {"weights": "imagenet"}, "unknown pretrained weights 'imagenet' of sam_b: choose one of sam_vit_b$"),
        ("sam_b", {"weights": "sam_vit_l"}, "weights sam_vit_l are of sam_l, not of sam_b: choose one of sam_vit_b$"),
        (
            "deeplab_v3_resnet50",
            {"encoder": "resnet18", "output_stride": 4},
            "output_stride of ResNet is 4, expected 8 or 16 or 32",
        ),
    ],
)
def test_what_no_model_can_be_built_with_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        create_model(name, **{"num_classes": 3, **options})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "shape", "said"),
    [
        (
            "unet",
            {"widths": [4, 8]},
            (1, 4, 32, 32),
            r"images have the shape \(1, 4, 32, 32\), expected \(B, 3, H, W\): build the model with in_channels",
        ),
        ("unet", {"widths": [4, 8]}, (3, 32, 32), r"images have the shape \(3, 32, 32\), expected \(B, 3, H, W\)"),
        ("segnet", {}, (1, 3, 16, 64), "image height is 16, expected at least 32"),
    ],
)
def test_images_that_a_model_cannot_take_are_refused(
    name: str, options: dict[str, Any], shape: tuple[int, ...], said: str
) -> None:
    with torch.device("meta"):
        model = create_model(name, 3, **options).eval()
        with pytest.raises(InputError, match=said):
            model(torch.empty(shape))

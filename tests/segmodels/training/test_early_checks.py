"""What is wrong with the settings of a training is found without data, by the functions that build it from data."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from segmodels.errors import InputError
from segmodels.models.base import Model
from segmodels.models.registry import MODELS, Card, list_models, register_model
from segmodels.training.early_checks import check_names
from segmodels.training.settings import DeepSupervision, TrainSettings

PSPNET = {"model": "pspnet_r50_d8"}
DECAY = DeepSupervision(decay=True)
UNET_ON = {"model": "unet_resnet34"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "unett"}, "unknown model 'unett': did you mean 'unet'"),
        ({"model": "semantic"}, "semantic is a task, which train.task takes, expected the name of a model"),
        ({"model": "dice"}, "dice is a loss, which train.loss takes, expected the name of a model"),
        ({"model": "unet", "task": "semantik"}, "unknown task 'semantik': did you mean 'semantic'"),
        ({"model": "unet", "task": "instance"}, "train.task is 'instance', but model 'unet' learns semantic: choose"),
        ({"model": "unet", "loss": {"dicee": 1.0}}, "unknown loss 'dicee': did you mean 'dice'"),
        ({"model": "unet", "loss": {"dice": {"smoth": 1}}}, "unknown option 'smoth' of loss 'dice': did you mean"),
        ({"model": "unet", "loss": {"presence": 1.0}}, "reads the output 'presence', which model 'unet' does not have"),
        ({"model": "unet", "options": {"width": [4]}}, "unknown option 'width' of model 'unet': did you mean 'widths'"),
        ({**PSPNET, "options": {"widths": [4]}}, "; if train.options is of another model, {} gives this one its"),
        ({"model": "unet", "options": {"widths": [4]}}, "widths is [4], expected at least 2 positive numbers"),
        ({"model": "mask_rcnn_r50_fpn", "options": {"samples": -1}}, "option 'samples' of model 'mask_rcnn_r50_fpn'"),
        ({"model": "gruu_net", "options": {"state_channels": 0}}, "with state_channels 0 has no weights in "),
        (
            {"model": "unet_original", "options": {"dropout": float("nan")}},
            "dropout is nan, expected from 0 to below",
        ),
        ({"model": "wnet", "options": {"dropout": 1}}, "dropout is 1, expected from 0 to below 1, the share of values"),
        ({"model": "deeplab_v1_large_fov", "options": {"rate": 0}}, "rate is 0, expected a number of at least 1"),
        ({"model": "deeplab_v2_vgg16", "options": {"scales": [0]}}, "scales is [0], expected numbers from 0.1 to 10"),
        ({"model": "transunet_r50_b16", "options": {"encoder_options": {"depth": 0}}}, "depth of R50-ViT is 0"),
        (
            {"model": "transunet_r50_b16", "options": {"encoder_options": {"resnet_depths": [1, 0, 1]}}},
            "is 1, 0, 1, exp",
        ),
        ({"model": "transunet_r50_b16", "options": {"encoder_options": {"image_size": -1}}}, "image_size -1, expected"),
        (
            {**UNET_ON, "options": {"encoder": "efficientnet_lite0", "encoder_options": {"drop_path": 2}}},
            "drop_path is 2",
        ),
        (
            {"model": "mask_rcnn_r50_fpn", "loss": {"detection": {"beta": -1}}},
            "beta is -1, expected a finite number of",
        ),
        ({"model": "yolo_mask_n", "loss": {"one_stage_detection": {"places_weight": -1}}}, "places_weight is -1, exp"),
        ({"model": "maskformer_r50", "loss": {"mask_classification": {"gamma": -1}}}, "gamma is -1, expected"),
        (
            {"model": "maskformer_r50", "loss": {"mask_classification": {"alpha": 2}}},
            "alpha is 2, expected a number from",
        ),
        ({"model": "sam_tiny", "loss": {"prompted_masks": {"dice_weight": -1}}}, "dice_weight is -1, expected"),
        ({"model": "mask_rcnn_r50_fpn", "options": {"samples": 0}}, "samples is 0, expected a number of at least 1"),
        ({"model": "htc_r50_fpn", "options": {"sides": [float("nan")] * 5}}, "sides is [nan, nan, nan, nan, nan], exp"),
        ({"model": "yolo_mask_n", "options": {"anchors": [[[float("nan"), 1]]] * 3}}, "expected for each of 3 maps"),
        ({"model": "detectors_r50", "options": {"channels": 6}}, "channels is 6, expected a multiple of 4"),
        (
            {"model": "segmenter_t_mask", "options": {"encoder": "resnet18"}},
            "last map has 512 channels, expected a multiple of 3",
        ),
        (
            {"model": "bisenet_v1_r18", "options": {"encoder_options": {"ceil_mode": True}}},
            "'bisenet_v1_r18' with encoder_options {'ceil_mode': True} takes no images (Sizes of tensors must match",
        ),
        ({"model": "panet_r50", "options": {"channels": 1}}, "mask_whole.1.conv.weight: correct the option that is to"),
        ({"model": "yolo_mask_n", "options": {"detections": 0}}, "detections is 0, expected a number of at least 1"),
        (
            {"model": "unet", "loss": {"dice": 1.0}, "class_weights": "complement"},
            "which none of the losses dice takes",
        ),
        ({"model": "unet", "deep_supervision": DeepSupervision((0.5,))}, "model 'unet' has no auxiliary heads"),
        (
            {"model": "unet_plus_plus", "options": {"deep_supervision": False}, "deep_supervision": DECAY},
            "no auxiliary",
        ),
        ({**PSPNET, "options": {"auxiliary": False}, "deep_supervision": DECAY}, "or its option auxiliary to true"),
        ({"model": "unet", "loss": {"ms_ssim": {"scales": 1.5}}}, "scales is 1.5"),
        (
            {"model": "unet", "loss": {"cross_entropy": {"class_weights": "x"}}},
            "class_weights is 'x', expected one finite",
        ),
        (
            {"model": "unet", "loss": {"cross_entropy": {"class_weights": []}}},
            "class_weights is [], expected one finite",
        ),
        ({"model": "unet", "loss": {"dice": {"smooth": float("nan")}}}, "is nan, expected a finite number"),
        ({**PSPNET, "options": {"encoder_options": {"frozen_stages": 9}}}, "stages to freeze is 9, expected 0 to 5"),
        ({"model": "unet", "loss": {"dice": 0}}, "loss has the weights {'dice': 0.0}, expected one above 0"),
        ({"model": "unet", "options": {"widths": 4}}, "option 'widths' of model 'unet' is 4, expected a list"),
        ({"model": "unet", "options": {"num_classes": 2}}, "train.options has num_classes, which follows from"),
        ({"model": "unet", "options": {"weights": "imagent"}}, "no published weights of unet are in the table"),
        ({**PSPNET, "options": {"encoder": "resnet51"}}, "unknown encoder 'resnet51'"),
        ({**PSPNET, "options": {"encoder_options": {"deep_stm": True}}}, "unknown option 'deep_stm' of encoder 'resn"),
        ({**PSPNET, "options": {"encoder_options": {"frozen_stages": "2"}}}, "is '2', expected a whole number"),
        ({**UNET_ON, "options": {"encoder_weights": "imagnet"}}, "weights 'imagnet' of resnet34: did you mean 'imagen"),
    ],
)
def test_a_name_that_nothing_has_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_names(TrainSettings(**settings))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "unet", "loss": {"dice": 1.0, "focal": 0.5}, "class_weights": "complement"},
        {"model": "unet", "class_weights": "inverse_frequency"},
        {"model": "unet", "deep_supervision": DeepSupervision((0.0,))},  # what it does anyway
        {**PSPNET, "deep_supervision": DECAY},
        {
            "model": "attention_unet_original",
            "options": {"spatial_dims": 3, "in_channels": 4},
            "deep_supervision": DECAY,
        },
        {"model": "htc_r50_fpn", "deep_supervision": DeepSupervision((0.5, 0.25))},
        {"model": "maskformer_r50", "deep_supervision": DeepSupervision((0.5,))},
        {"model": "sam_tiny", "deep_supervision": DECAY},
    ],
)
def test_weights_that_have_an_effect_or_may_have_one_are_taken(settings: dict[str, Any]) -> None:
    check_names(TrainSettings(**settings))


@pytest.mark.parametrize("name", list_models())
def test_every_model_passes_as_it_is(name: str) -> None:
    assert check_names(TrainSettings(model=name)) == MODELS[name].card.tasks


def test_what_only_the_training_machine_may_have_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for options in (
        {"encoder": "timm:of_another_machine", "encoder_options": {"pretrained": True}},
        {"encoder_weights": "s3://bucket/weights.pth"},
        {"weights": "elsewhere/weights.pth"},
        {"encoder_weights": "imagenet", "encoder_options": {"frozen_stages": 2}},
    ):
        check_names(TrainSettings(model="pspnet_r50_d8", options=options))


def test_timm_is_asked_for_a_name_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"convnext_tiny", "convnext_base"}
    timm = SimpleNamespace(is_model=names.__contains__, list_models=lambda: sorted(names), __version__="1.0")
    monkeypatch.setitem(sys.modules, "timm", timm)
    for name in ("timm:convnext_tiny", "timm:hf-hub:timm/convnext_tiny.in12k"):
        check_names(TrainSettings(model="pspnet_r50_d8", options={"encoder": name}))
    with pytest.raises(InputError, match=r"timm 1\.0 has no model 'convnext_tny': did you mean 'convnext_tiny'"):
        check_names(TrainSettings(model="pspnet_r50_d8", options={"encoder": "timm:convnext_tny"}))
    with pytest.raises(InputError, match=r"timm 1\.0 has no model 'x': timm\.list_models\(\) names all"):
        check_names(TrainSettings(model="pspnet_r50_d8", options={"encoder": "timm:x"}))


def test_a_model_of_the_user_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS.names()
    monkeypatch.setattr(MODELS, "_entries", {**MODELS._entries})

    @register_model("mine", Card("ours", 2026))
    def mine(num_classes: int, in_channels: int = 3, wings: int = 2) -> Model:
        raise AssertionError(num_classes, in_channels, wings)

    check_names(TrainSettings(model="mine", options={"wings": 3}))
    with pytest.raises(InputError, match="unknown option 'wing' of model 'mine': did you mean 'wings'"):
        check_names(TrainSettings(model="mine", options={"wing": 3}))

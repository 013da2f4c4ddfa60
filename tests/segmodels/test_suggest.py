"""Hints about unknown names: what people write for a name finds it, and names of other things suggest nothing."""

import pytest

from segmodels.suggest import did_you_mean, nearest, same_name

MODELS = (
    *("deeplab_v1_large_fov", "deeplab_v3_plus_r50_d8", "deeplab_v3_r50_d8", "fcn8s_vgg16", "panet_r50"),
    *("pspnet_r50_d8", "sam_b", "segformer_b0", "unet", "unet_3_plus", "unet_plus_plus", "vnet", "wnet", "ynet"),
)
LOSSES = (
    *("binary_cross_entropy", "cross_entropy", "dice", "focal", "generalized_dice", "iou", "lovasz_hinge"),
    *("lovasz_softmax", "top_k"),
)
ENCODERS = (
    *("mit_b1", "resnet18", "resnet50", "resnet152", "sam_vit_base", "swin_base", "swin_tiny", "vgg16", "vgg16_bn"),
    "vit_base",
)
KEYS = ("batch_size", "epochs", "gradient_clip", "lr", "model", "optimizer", "schedule", "weight_decay", "workers")
SCORES = ("mean_iou", "frequency_weighted_iou", "mean_dice", "pixel_accuracy", "mean_pixel_accuracy")


@pytest.mark.parametrize(
    ("known", "name", "meant"),
    [
        # other capitals and separators
        (MODELS, "UNet", ["unet"]),
        (MODELS, "u-net", ["unet"]),
        (MODELS, "UNet++", ["unet_plus_plus"]),
        (MODELS, "unet3+", ["unet_3_plus"]),
        (ENCODERS, "resnet-50", ["resnet50"]),
        (ENCODERS, "ResNet50", ["resnet50"]),
        (LOSSES, "topk", ["top_k"]),
        # parts of names, and names with more
        (MODELS, "pspnet", ["pspnet_r50_d8"]),
        (MODELS, "deeplabv3", ["deeplab_v3_r50_d8", "deeplab_v3_plus_r50_d8"]),
        (MODELS, "sam_vit_b", ["sam_b"]),
        (ENCODERS, "vgg", ["vgg16", "vgg16_bn"]),
        (ENCODERS, "vit_base_patch16_224", ["vit_base"]),
        (MODELS, "deeplabv3_resnet50", ["deeplab_v3_r50_d8", "deeplab_v3_plus_r50_d8"]),
        (ENCODERS, "vit_b16", ["vit_base", "sam_vit_base"]),  # not mit_b1
        (ENCODERS, "ViT-B/16", ["vit_base", "sam_vit_base"]),
        (ENCODERS, "vgg19", ["vgg16", "vgg16_bn"]),
        (LOSSES, "dice_loss", ["dice"]),
        (LOSSES, "hinge", ["lovasz_hinge"]),
        (KEYS, "max_epochs", ["epochs"]),
        (KEYS, "clip", ["gradient_clip"]),
        (("encoder", "encoder_options", "encoder_weights"), "encoder_option", ["encoder_options"]),
        (SCORES, "dice", ["mean_dice"]),
        # initials
        (LOSSES, "bce", ["binary_cross_entropy"]),
        (KEYS, "learning_rate", ["lr"]),
        # typing errors
        (MODELS, "unett", ["unet"]),
        (LOSSES, "cross_entrpy", ["cross_entropy"]),
        (LOSSES, "generalised_dice", ["generalized_dice", "dice"]),
        (ENCODERS, "resnet51", ["resnet18", "resnet50", "resnet152"]),
        (ENCODERS, "vit_b", ["vit_base", "sam_vit_base"]),
        (KEYS, "optimiser", ["optimizer"]),
        (SCORES, "miou", ["mean_iou"]),
    ],
)  # fmt: skip
def test_what_people_write_finds_the_name(known: tuple[str, ...], name: str, meant: list[str]) -> None:
    assert did_you_mean(name, known) == f"did you mean {' or '.join(map(repr, meant))}?"


@pytest.mark.parametrize(
    ("known", "name"),
    [
        (MODELS, "hrnet"),  # not ynet, which shares its last letters
        (MODELS, "mobilenet_v2"),
        (MODELS, "cross_entropy"),
        (ENCODERS, "unet"),  # not resnet50
        (ENCODERS, "densenet121"),
        (("drop_path", "checkpointing"), "depth"),
        (ENCODERS, "imagenet"),
        (LOSSES, "mse"),
        (LOSSES, "resnet50"),
        (SCORES, "cross_entropy"),
        (KEYS, "gpu"),
        (KEYS, ""),
        ((), "anything"),
    ],
)
def test_names_of_other_things_suggest_nothing_so_all_names_are_listed(known: tuple[str, ...], name: str) -> None:
    assert did_you_mean(name, known) == f"choose one of {', '.join(known)}"


def test_a_section_before_the_names_is_shown_and_does_not_make_them_alike() -> None:
    assert did_you_mean("epoch", KEYS, "train.") == "did you mean 'train.epochs'?"
    assert did_you_mean("gpu", KEYS, "train.").startswith("choose one of train.batch_size, train.epochs, ")


def test_names_in_any_script_are_compared() -> None:
    assert did_you_mean("Дорога", ("дорога", "река")) == "did you mean 'дорога'?"
    assert same_name("Rest Net-50", "rest_net50")
    assert not same_name("resnet50", "resnet5")


def test_the_error_says_where_the_unknown_name_stands() -> None:
    assert str(nearest("option", "width", ["widths"], " of model 'unet'")) == (
        "unknown option 'width' of model 'unet': did you mean 'widths'?"
    )

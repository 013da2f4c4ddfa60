"""Pairs of a model of this project and its like in transformers or MONAI, for ``benchmarks.models``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segmodels import create_model
from segmodels.encoders.registry import create_encoder
from segmodels.losses import create_loss
from segmodels.models.registry import model_entry
from segmodels.prompts import Prompts
from segmodels.tasks.targets import Segments, SegmentTargets
from segmodels.training.criterion import DEFAULT_LOSS

CLASSES = 21
SQUARE = 16
"""Height and width of a region of one class in the labels, pixels."""


class Pair(NamedTuple):
    """Two models for images of ``size`` x ``size`` pixels: modules that map images to outputs, or to their loss.

    Attributes:
        ours, theirs: build them, for images of that size.
        reference: what theirs is, and how it differs.
    """

    ours: Callable[[int], nn.Module]
    reference: str
    theirs: Callable[[int], nn.Module]
    size: int = 128


class LastMap(nn.Module):
    """An encoder of ours or a model of transformers, reduced to its last map, so that both send back one gradient."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        output = self.body(images)
        return output[-1] if isinstance(output, list) else output.last_hidden_state


class OurLoss(nn.Module):
    """A model and the losses of its paper: images to the loss of ``true_segments``."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        card = model_entry(name).card
        self.net = create_model(name, CLASSES, **options)
        self.criterion = create_loss(card.losses or DEFAULT_LOSS)
        self.auxiliary_weights = card.auxiliary_weights

    def forward(self, images: Tensor) -> Tensor:
        weights, layers = zip(*self.net(images).layers(self.auxiliary_weights), strict=True)
        terms = self.criterion.terms_of_layers(layers, true_segments(*_facts(images)))
        return torch.stack(
            [weight * self.criterion.total(own) for weight, own in zip(weights, terms, strict=True)]
        ).sum()


class TheirLoss(nn.Module):
    """A model of transformers, which computes its loss itself: images to the loss of ``true_segments``.

    Args:
        masks: it takes a mask for each class of an image, not a map of classes.
    """

    net: Any  # of transformers

    def __init__(self, net: nn.Module, masks: bool = False) -> None:
        super().__init__()
        self.net = net
        self.masks = masks

    def forward(self, images: Tensor) -> Tensor:
        truth = true_segments(*_facts(images))
        if not self.masks:
            return self.net(pixel_values=images, labels=truth.classes.long()).loss
        masks = [own.masks.float() for own in truth.segments]
        return self.net(
            pixel_values=images, mask_labels=masks, class_labels=[own.labels for own in truth.segments]
        ).loss


class TheirLossOfLayers(TheirLoss):
    """transformers' MaskFormer with the losses of all decoder layers, as in the paper: its own ``forward`` fails there
    (5.23), and counts the queries before the first layer, too.
    """

    def forward(self, images: Tensor) -> Tensor:
        segments = true_segments(*_facts(images)).segments
        outputs = self.net.model(images, output_hidden_states=True)
        layers = self.net.config.decoder_config.decoder_layers
        outputs.transformer_decoder_hidden_states = outputs.transformer_decoder_hidden_states[-layers:]
        class_logits, mask_logits, earlier = self.net.get_logits(outputs)
        masks, classes = [own.masks.float() for own in segments], [own.labels for own in segments]
        return self.net.get_loss(self.net.get_loss_dict(mask_logits, class_logits, masks, classes, earlier))


class OurAnswers(nn.Module):
    """``sam_b`` answers two clicks on each image, an object each."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.model = create_model("sam_b", 1, encoder_options={"image_size": size})

    def forward(self, images: Tensor) -> list[Tensor]:
        points = _clicks(images)
        labels = torch.ones(2, 1, dtype=torch.int64, device=images.device)
        choices = self.model(images, Prompts((points,) * len(images), (labels,) * len(images))).choices
        return [torch.stack([own.mask_logits for own in choices]), torch.stack([own.quality for own in choices])]


class TheirAnswers(nn.Module):
    """transformers' SamModel answers the same; of its four masks it shows three."""

    def __init__(self, size: int) -> None:
        super().__init__()
        from transformers import SamConfig, SamModel

        self.model = SamModel(SamConfig(vision_config={"image_size": size}, prompt_encoder_config={"image_size": size}))

    def forward(self, images: Tensor) -> list[Tensor]:
        output = self.model(images, input_points=_clicks(images).expand(len(images), -1, -1, -1))
        return [output.pred_masks, output.iou_scores]


def _clicks(images: Tensor) -> Tensor:
    """``(2, 1, 2)``."""
    return images.new_tensor([[[0.25, 0.25]], [[0.5, 0.75]]]) * images.shape[-1]


def _facts(images: Tensor) -> tuple[int, int, torch.device]:
    return len(images), images.shape[-1], images.device


@functools.lru_cache(maxsize=4)
def true_segments(count: int, size: int, device: torch.device) -> SegmentTargets:
    """Squares of ``SQUARE`` pixels of all classes in turn, for each of ``count`` images; a class is a segment."""
    line = torch.arange(size, device=device) // SQUARE
    classes = torch.stack([(5 * line[:, None] + line + image) % CLASSES for image in range(count)])
    valid = torch.ones_like(classes[0], dtype=torch.bool)
    segments = [Segments(labels := own.unique(), own == labels[:, None, None], valid) for own in classes]
    return SegmentTargets(segments, classes.to(torch.uint8))  # as a dataset stores them


def transformers_resnet50() -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return LastMap(ResNetModel(ResNetConfig()))


def transformers_mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return LastMap(MobileNetV2Model(MobileNetV2Config(tf_padding=False), add_pooling_layer=False))


def monai_unet() -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, 3, CLASSES, features=(64, 128, 256, 512, 1024, 64), act="relu", norm="batch", bias=False)


def monai_unet_plus_plus() -> nn.Module:
    from monai.networks.nets import BasicUNetPlusPlus

    return BasicUNetPlusPlus(
        2, 3, CLASSES, features=(32, 64, 128, 256, 512, 32), deep_supervision=True, act="relu", norm="batch"
    )


def monai_attention_unet() -> nn.Module:
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(2, 3, CLASSES, channels=(64, 128, 256, 512, 1024), strides=(2, 2, 2, 2))


def without_dropout(net: nn.Module) -> nn.Module:
    """``net``, whose peer has none."""
    for layer in net.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    return net


def transformers_upernet(swin: bool) -> nn.Module:
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    body = _swin_tiny() if swin else _resnet50()
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=body, num_labels=CLASSES, auxiliary_in_channels=1024, use_auxiliary_head=False)
    )


def transformers_segformer(depths: list[int], widths: list[int], channels: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(depths=depths, hidden_sizes=widths, decoder_hidden_size=channels, num_labels=CLASSES)
    return TheirLoss(SegformerForSemanticSegmentation(config))


def transformers_maskformer() -> nn.Module:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation

    decoder = DetrConfig(attention_dropout=0.1, use_timm_backbone=False, backbone_config=_resnet50())
    config = MaskFormerConfig(
        backbone_config=_resnet50(), decoder_config=decoder, num_labels=CLASSES, use_auxiliary_loss=True
    )
    return TheirLossOfLayers(MaskFormerForInstanceSegmentation(config))


def transformers_mask2former() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config = Mask2FormerConfig(backbone_config=_swin_tiny(), num_labels=CLASSES)
    return TheirLoss(Mask2FormerForUniversalSegmentation(config), masks=True)


def _resnet50() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])


def _swin_tiny() -> Any:
    from transformers import SwinConfig

    return SwinConfig(window_size=7, drop_path_rate=0.3, out_features=["stage1", "stage2", "stage3", "stage4"])


PAIRS: dict[str, Pair] = {
    "encoder resnet50": Pair(
        lambda _: LastMap(create_encoder("resnet50")),
        "transformers ResNetModel (same net)",
        lambda _: transformers_resnet50(),
    ),
    "encoder mobilenet_v2": Pair(
        lambda _: LastMap(create_encoder("mobilenet_v2")),
        "transformers MobileNetV2Model (and its 1280 channels)",
        lambda _: transformers_mobilenet_v2(),
    ),
    "unet": Pair(
        lambda _: create_model("unet", CLASSES),
        "MONAI BasicUNet (no halving in the last up-convolution)",
        lambda _: monai_unet(),
    ),
    "unet_plus_plus": Pair(
        lambda _: create_model("unet_plus_plus", CLASSES),
        "MONAI BasicUNetPlusPlus",
        lambda _: monai_unet_plus_plus(),
    ),
    "upernet_r50": Pair(
        lambda _: without_dropout(
            create_model("upernet_r50", CLASSES, encoder_options={"deep_stem": False}, auxiliary=False)
        ),
        "transformers UperNetForSemanticSegmentation (same net)",
        lambda _: transformers_upernet(swin=False),
    ),
    "attention_unet": Pair(
        lambda _: create_model("attention_unet", CLASSES),
        "MONAI AttentionUnet (strided convolutions for pools)",
        lambda _: monai_attention_unet(),
    ),
    "upernet_r50 on swin_tiny, with loss": Pair(
        lambda _: without_dropout(OurLoss("upernet_r50", encoder="swin_tiny", auxiliary=False)),
        "transformers UperNetForSemanticSegmentation (same net)",
        lambda _: TheirLoss(transformers_upernet(swin=True)),
        256,
    ),
    "segformer_b0, with loss": Pair(
        lambda _: OurLoss("segformer_b0"),
        "transformers SegformerForSemanticSegmentation (same net)",
        lambda _: transformers_segformer([2, 2, 2, 2], [32, 64, 160, 256], 256),
        256,
    ),
    "segformer_b2, with loss": Pair(
        lambda _: OurLoss("segformer_b2"),
        "transformers SegformerForSemanticSegmentation (same net)",
        lambda _: transformers_segformer([3, 4, 6, 3], [64, 128, 320, 512], 768),
        256,
    ),
    "maskformer_r50, with loss": Pair(
        lambda _: OurLoss("maskformer_r50"),
        "transformers MaskFormerForInstanceSegmentation (same net)",
        lambda _: transformers_maskformer(),
        256,
    ),
    "mask2former_swin_t, with loss": Pair(
        lambda _: OurLoss("mask2former_swin_t"),
        "transformers Mask2FormerForUniversalSegmentation (same net)",
        lambda _: transformers_mask2former(),
        256,
    ),
    "sam_b, two clicks": Pair(
        lambda size: OurAnswers(size),
        "transformers SamModel (same net)",
        lambda size: TheirAnswers(size),
        256,
    ),
}

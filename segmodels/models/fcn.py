"""FCN (Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv 1411.4038)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segmodels.models.blocks import ConvNormAct, resize
from segmodels.models.encoders.base import Encoder
from segmodels.models.encoders.registry import create_encoder
from segmodels.models.prediction import Prediction
from segmodels.models.registry import ModelCard, register_model

PAPER = "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv 1411.4038"


class DilatedFCN(nn.Module):
    """FCN on a dilated encoder: a small head on its last map, bilinear upsampling to the input, an auxiliary head on the map before the last."""

    def __init__(self, encoder: Encoder, classifier: nn.Module, aux_classifier: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor) -> Prediction:
        *_, middle, last = self.encoder(images)
        logits = resize(self.classifier(last), images.shape[-2:])
        if not self.training or self.aux_classifier is None:
            return Prediction(logits)
        return Prediction(logits, (resize(self.aux_classifier(middle), images.shape[-2:]),))


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 to the classes: torchvision's head and its keys."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1) -> None:
        channels = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )


class ConcatHead(nn.Module):
    """mmseg's head: two 3x3 convolutions of 512, their result beside the input through a third, dropout, 1x1 to the classes."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(in_channels, channels), ConvNormAct(channels, channels))
        self.conv_cat = ConvNormAct(in_channels + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_cat(torch.cat([x, self.convs(x)], dim=1))
        return self.conv_seg(self.dropout(x))


def _fcn_resnet(
    num_classes: int, encoder: str, in_channels: int, encoder_weights: str | None, encoder_options: dict[str, Any] | None, output_stride: int, auxiliary: bool
) -> nn.Module:
    body = create_encoder(encoder, in_channels, output_stride, encoder_weights, **(encoder_options or {}))
    aux_classifier = FCNHead(body.channels[-2], num_classes) if auxiliary else None
    return DilatedFCN(body, FCNHead(body.channels[-1], num_classes), aux_classifier)


@register_model(
    "fcn_resnet50",
    ModelCard(
        PAPER,
        2015,
        default_encoder="resnet50",
        parameters=35_322_218,
        size=(520, 520),
        gmac=142.73,
        source="specification [M]: torchvision fcn_resnet50, 152.72 GMAC with the auxiliary head that it runs in eval mode too, 9.99",
        result="COCO val2017, 20 VOC classes: mIoU 60.5 (torchvision's weights)",
    ),
)
def fcn_resnet50(
    num_classes: int,
    in_channels: int = 3,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
    output_stride: int = 8,
    auxiliary: bool = True,
) -> nn.Module:
    """torchvision's form: ResNet with output stride 8, one 3x3 convolution in the head, auxiliary head on layer 3 (its loss weighs 0.5 there)."""
    return _fcn_resnet(num_classes, encoder, in_channels, encoder_weights, encoder_options, output_stride, auxiliary)


@register_model(
    "fcn_resnet101",
    ModelCard(
        PAPER,
        2015,
        default_encoder="resnet101",
        parameters=54_314_346,
        size=(520, 520),
        gmac=222.75,
        source="specification [M]: torchvision fcn_resnet101, 232.74 GMAC with the auxiliary head that it runs in eval mode too, 9.99",
        result="COCO val2017, 20 VOC classes: mIoU 63.7 (torchvision's weights)",
    ),
)
def fcn_resnet101(
    num_classes: int,
    in_channels: int = 3,
    encoder: str = "resnet101",
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
    output_stride: int = 8,
    auxiliary: bool = True,
) -> nn.Module:
    """As fcn_resnet50 with the deeper body."""
    return _fcn_resnet(num_classes, encoder, in_channels, encoder_weights, encoder_options, output_stride, auxiliary)

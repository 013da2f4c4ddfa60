"""OCRNet (Yuan, Chen, Wang: Object-Contextual Representations for Semantic Segmentation, ECCV 2020, arXiv
1909.11065).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.heads import FCNHead
from segmodels.layers.names import Names
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Yuan, Chen, Wang: Object-Contextual Representations for Semantic Segmentation, ECCV 2020, arXiv 1909.11065"


def object_regions(features: Tensor, scores: Tensor) -> Tensor:
    """A vector per class, the mean of the features weighted by where the coarse scores see it (section 3.2).

    Features ``(B, C, h, w)`` and scores, before softmax, ``(B, K, h, w)`` to ``(B, C, K, 1)``.
    """
    weights = scores.flatten(2).softmax(dim=2)
    return (features.flatten(2) @ weights.transpose(1, 2))[..., None]


class ObjectAttention(nn.Module):
    """Every position attends to the object regions (section 3.2); the result beside the features through a 1x1
    convolution.

    Features ``(B, C, h, w)`` and regions ``(B, C, K, 1)`` to ``(B, C, h, w)``.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.key_project = nn.Sequential(ConvNormAct(in_channels, channels, 1), ConvNormAct(channels, channels, 1))
        self.query_project = nn.Sequential(ConvNormAct(in_channels, channels, 1), ConvNormAct(channels, channels, 1))
        self.value_project = ConvNormAct(in_channels, channels, 1)
        self.out_project = ConvNormAct(channels, in_channels, 1)
        self.bottleneck = ConvNormAct(2 * in_channels, in_channels, 1)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        queries = self.query_project(features).flatten(2).transpose(1, 2)
        keys = self.key_project(regions).flatten(2)
        values = self.value_project(regions).flatten(2)
        attention = (keys.shape[1] ** -0.5 * (queries @ keys)).softmax(dim=2)
        context = (values @ attention.transpose(1, 2)).unflatten(2, features.shape[-2:])
        return self.bottleneck(torch.cat([self.out_project(context), features], dim=1))


class OCRNet(Model):
    """Coarse scores, object regions from them, attention of positions to regions, classes. In training the coarse
    scores are an auxiliary output.

    Args:
        encoder: of HRNet all maps are read, brought to the size of the finest; of others the last, and by the coarse
            head the one before it.
        coarse: from the map that the coarse head reads to the classes; the loss of its scores weighs 0.4 in the paper.
        concatenate: read all maps.
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.0\.convs\.0\.", "coarse.0."),
        (r"^decode_head\.0\.conv_seg\.", "coarse.1."),
        (r"^decode_head\.1\.", ""),
    )

    def translate(self, key: str) -> str:
        """The coarse head is mmsegmentation's first of two; that on a ResNet has the keys of an auxiliary head."""
        if isinstance(self.coarse, FCNHead) and key.startswith("decode_head.0."):
            key = super().translate(key.replace("decode_head.0.", "auxiliary_head."))
            return key.replace("aux_classifier.", "coarse.")
        return super().translate(key)

    def __init__(
        self,
        encoder: Encoder,
        coarse: nn.Module,
        num_classes: int,
        concatenate: bool,
        channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.concatenate = concatenate
        self.coarse = coarse
        self.object_context_block = ObjectAttention(channels, key_channels)
        self.bottleneck = ConvNormAct(sum(encoder.channels) if concatenate else encoder.channels[-1], channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        size = images.shape[-2:]
        *_, middle, last = maps = self.encoder(images)
        if self.concatenate:
            middle = last = torch.cat([resize(x, maps[0].shape[-2:]) for x in maps], dim=1)
        scores = self.coarse(middle)
        features = self.bottleneck(last)
        x = self.object_context_block(features, object_regions(features, scores))
        logits = resize(self.conv_seg(self.dropout(x)), size)
        return PixelOutput(logits, (resize(scores, size),) if self.training else ())

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.conv_seg, self.coarse)


RECIPE: dict[str, Any] = {
    "num_classes": 19,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 5e-4,
    "schedule": "polynomial",
    "batch_size": 8,
}  # section 4.1, Cityscapes


@register_model(
    "ocrnet_hr18s",
    Card(PAPER, 2020, parameters=6_378_496, gmac=44.43, source="mmsegmentation 1.2.2 ocrnet_hr18s, counted", **RECIPE),
)
def ocrnet_hr18s(num_classes: int, in_channels: int = 3, body: Body = Body("hrnet_w18_small")) -> OCRNet:
    """The small HRNet-W18."""
    return _ocrnet(num_classes, in_channels, body)


@register_model(
    "ocrnet_hr18",
    Card(PAPER, 2020, parameters=12_080_036, gmac=53.25, source="mmsegmentation 1.2.2 ocrnet_hr18, counted", **RECIPE),
)
def ocrnet_hr18(num_classes: int, in_channels: int = 3, body: Body = Body("hrnet_w18")) -> OCRNet:
    """HRNet-W18."""
    return _ocrnet(num_classes, in_channels, body)


@register_model(
    "ocrnet_hr48",
    Card(
        PAPER,
        2020,
        parameters=70_371_446,
        gmac=162.24,
        source="mmsegmentation 1.2.2 ocrnet_hr48, counted",
        result="Cityscapes val: mIoU 81.35 (mmsegmentation)",
        **RECIPE,
    ),
)
def ocrnet_hr48(num_classes: int, in_channels: int = 3, body: Body = Body("hrnet_w48")) -> OCRNet:
    """HRNet-W48, the paper's best."""
    return _ocrnet(num_classes, in_channels, body)


@register_model(
    "ocrnet_r101_d8",
    Card(
        PAPER,
        2020,
        parameters=55_516_294,
        gmac=230.45,
        source="mmsegmentation 1.2.2 ocrnet_r101-d8, counted",
        result="Cityscapes val: mIoU 80.81 (mmsegmentation)",
        **RECIPE,
    ),
)
def ocrnet_r101_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101", options=DEEP_STEM),
    output_stride: int = 8,
) -> OCRNet:
    """ResNet-101 with a deep stem at output stride 8."""
    return _ocrnet(num_classes, in_channels, body, output_stride)


def _ocrnet(num_classes: int, in_channels: int, body: Body, output_stride: int = 8) -> OCRNet:
    """On all maps of an HRNet, or on the last two of another encoder at ``output_stride``."""
    if body.encoder.startswith("hrnet"):
        encoder = body.build(in_channels)
        width = sum(encoder.channels)
        coarse = nn.Sequential(ConvNormAct(width, width, 1), nn.Conv2d(width, num_classes, 1))
        return OCRNet(encoder, coarse, num_classes, concatenate=True)
    # A ResNet has a deep stem, in place of an HRNet too.
    stem = DEEP_STEM if body.encoder.startswith("resnet") else {}
    encoder = body.build(in_channels, output_stride, **stem)
    return OCRNet(encoder, FCNHead(encoder.channels[-2], num_classes), num_classes, concatenate=False, dropout=0.1)

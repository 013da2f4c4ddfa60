"""PSPNet (Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.heads import FCNHead
from segmodels.layers.names import Names
from segmodels.layers.pyramid_pooling import PyramidPooling
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model

PAPER = "Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105"


class PSPHead(nn.Sequential):
    """Pyramid pooling, dropout, 1x1 to the classes."""

    published: ClassVar[Names] = ((r"^psp_modules\.", "pooling.stages."), (r"^bottleneck\.", "pooling.bottleneck."))

    def __init__(self, in_channels: int, num_classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)


RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "polynomial",
    "batch_size": 16,
}  # section 5.1


@register_model(
    "pspnet_r50_d8",
    Card(
        PAPER,
        2017,
        parameters=48_975_494,
        num_classes=19,
        gmac=178.32,
        source="mmsegmentation 1.2.2 pspnet_r50-d8, counted",
        result="Cityscapes val: mIoU 78.55 (mmsegmentation, 80k iterations)",
        **RECIPE,
    ),
)
def pspnet_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """ResNet-50 with a deep stem at output stride 8, as in the authors' release; the auxiliary loss weighs 0.4 (section
    4.1).
    """
    encoder = body.build(in_channels, output_stride)
    head = PSPHead(encoder.channels[-1], num_classes)
    return DilatedModel(encoder, head, FCNHead(encoder.channels[-2], num_classes) if auxiliary else None)


@register_model(
    "pspnet_r101_d8",
    Card(
        PAPER,
        2017,
        parameters=67_969_162,
        gmac=255.90,
        source="own count; body and auxiliary head: mmsegmentation 1.2.2, counted",
        result="PASCAL VOC 2012 test: mIoU 82.6 (paper)",
        **RECIPE,
    ),
)
def pspnet_r101_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """``pspnet_r50_d8`` on the deeper ResNet-101."""
    return pspnet_r50_d8(num_classes, in_channels, body, output_stride, auxiliary)

"""APCNet (He et al.: Adaptive Pyramid Context Network for Semantic Segmentation, CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.blocks import ConvNormAct
from segmodels.layers.heads import FCNHead
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model

PAPER = "He et al.: Adaptive Pyramid Context Network for Semantic Segmentation, CVPR 2019"


class AdaptiveContext(nn.Module):
    """Every position collects the means of ``scale`` x ``scale`` regions by affinities of its own (section 3).

    ``(B, in_channels, h, w)`` to ``(B, channels, h, w)``.
    """

    def __init__(self, in_channels: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.pooled_redu_conv = ConvNormAct(in_channels, channels, 1)
        self.input_redu_conv = ConvNormAct(in_channels, channels, 1)
        self.global_info = ConvNormAct(channels, channels, 1)
        self.gla = nn.Conv2d(channels, scale**2, 1)
        self.residual_conv = ConvNormAct(channels, channels, 1)
        self.fusion_conv = ConvNormAct(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        regions = self.pooled_redu_conv(functional.adaptive_avg_pool2d(x, self.scale))
        x = self.input_redu_conv(x)
        context = (regions.flatten(2) @ self.affinity(x).flatten(2)).unflatten(2, x.shape[-2:])
        return self.fusion_conv(torch.relu(self.residual_conv(context) + x))

    def affinity(self, x: Tensor) -> Tensor:
        """How much each position takes of each region, 0..1, from its features and those of the whole image: ``(B,
        scale², h, w)``.
        """
        image = self.global_info(functional.adaptive_avg_pool2d(x, 1))
        return self.gla(x + image).sigmoid()


class APCHead(nn.Module):
    """Adaptive context at several scales beside the map, 3x3 convolution, dropout, classes."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 512,
        scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.acm_modules = nn.ModuleList(AdaptiveContext(in_channels, channels, scale) for scale in scales)
        self.bottleneck = ConvNormAct(in_channels + len(scales) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bottleneck(torch.cat([x, *(module(x) for module in self.acm_modules)], dim=1))
        return self.conv_seg(self.dropout(x))


@register_model(
    "apcnet_r50_d8",
    Card(
        PAPER,
        2019,
        parameters=56_357_560,
        num_classes=19,
        gmac=204.30,
        source="mmsegmentation 1.2.2 apcnet_r50-d8, counted",
        result="Cityscapes val: mIoU 78.96 (mmsegmentation)",
    ),
)
def apcnet_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """ResNet-50 with a deep stem at output stride 8; auxiliary weight 0.4."""
    encoder = body.build(in_channels, output_stride)
    head = APCHead(encoder.channels[-1], num_classes)
    return DilatedModel(encoder, head, FCNHead(encoder.channels[-2], num_classes) if auxiliary else None)

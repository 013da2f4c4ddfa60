"""DMNet (He, Deng, Qiao: Dynamic Multi-Scale Filters for Semantic Segmentation, ICCV 2019)."""

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

PAPER = "He, Deng, Qiao: Dynamic Multi-Scale Filters for Semantic Segmentation, ICCV 2019"


class DynamicConv(nn.Module):
    """The map, reduced, is convolved by depthwise kernels that its own means over a ``kernel_size`` x ``kernel_size``
    grid give (section 3).

    ``(B, in_channels, h, w)`` to ``(B, channels, h, w)``. Every image has kernels of its own: the batch becomes groups
    of one convolution.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.filter_gen_conv = nn.Conv2d(in_channels, channels, 1)
        self.input_redu_conv = ConvNormAct(in_channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.filter_gen_conv(functional.adaptive_avg_pool2d(x, self.kernel_size))
        x = self.input_redu_conv(x)
        batch, channels = x.shape[:2]
        groups = batch * channels
        filtered = functional.conv2d(
            x.flatten(0, 1)[None], kernels.flatten(0, 1)[:, None], padding=self.kernel_size // 2, groups=groups
        )
        return torch.relu(self.norm(filtered[0].unflatten(0, (batch, channels))))


class DMHead(nn.Module):
    """Dynamic convolutions of several kernel sizes beside the map, 3x3 convolution, dropout, classes."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 512,
        kernel_sizes: Sequence[int] = (1, 3, 5, 7),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dcm_modules = nn.ModuleList(DynamicConv(in_channels, channels, size) for size in kernel_sizes)
        self.bottleneck = ConvNormAct(in_channels + len(kernel_sizes) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bottleneck(torch.cat([x, *(module(x) for module in self.dcm_modules)], dim=1))
        return self.conv_seg(self.dropout(x))


@register_model(
    "dmnet_r50_d8",
    Card(
        PAPER,
        2019,
        parameters=53_175_942,
        num_classes=19,
        gmac=195.71,
        source="mmsegmentation 1.2.2 dmnet_r50-d8, counted",
        result="Cityscapes val: mIoU 79.07 (mmsegmentation)",
    ),
)
def dmnet_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """ResNet-50 with a deep stem at output stride 8; auxiliary weight 0.4."""
    encoder = body.build(in_channels, output_stride)
    head = DMHead(encoder.channels[-1], num_classes)
    return DilatedModel(encoder, head, FCNHead(encoder.channels[-2], num_classes) if auxiliary else None)

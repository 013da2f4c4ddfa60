"""BiSeNet V1 (Yu et al.: BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation, ECCV 2018, arXiv
1808.00897).

A shallow spatial path keeps detail at stride 8; a context path (a light body with attention refinement and a global
mean) sees far; a fusion module joins them. ``bisenet_v1_xception39`` and ``bisenet_v1_resnet18`` follow the paper.
``bisenet_v1_r18`` and ``bisenet_v1_r50`` are mmseg's form, whose numbers many quote: it has another spatial path and
another gate in the fusion module.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.names import Names
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Yu et al.: BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation, ECCV 2018, arXiv"
    " 1808.00897"
)

HEADS: Names = (
    (r"^decode_head\.convs\.", "head."),
    (r"^decode_head\.conv_seg\.", "head.2."),
    (r"^auxiliary_head\.(\d)\.convs\.", r"auxiliary_heads.\1."),
    (r"^auxiliary_head\.(\d)\.conv_seg\.", r"auxiliary_heads.\1.2."),
)


class AttentionRefinement(nn.Module):
    """3x3 convolution, then each channel weighed by a sigmoid gate on its global mean (figure 2b)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels)
        self.gate = ConvNormAct(channels, channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.gate(functional.adaptive_avg_pool2d(x, 1)).sigmoid()


class ContextPath(nn.Module):
    """The encoder's maps at strides 16 and 32, refined; the global mean is added to the coarsest, and the sum goes
    upwards by nearest neighbours.

    ``forward`` gives the path's output at stride 8 and the map at stride 16 on the way, both of ``channels``.
    """

    def __init__(self, encoder: Encoder, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        channels16, channels32 = encoder.channels_at((16, 32))
        self.refine16 = AttentionRefinement(channels16, channels)
        self.refine32 = AttentionRefinement(channels32, channels)
        self.mean = ConvNormAct(channels32, channels, 1)
        self.up16 = ConvNormAct(channels, channels)
        self.up32 = ConvNormAct(channels, channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        map8, map16, map32 = self.encoder.maps(images, (8, 16, 32))
        mean = self.mean(functional.adaptive_avg_pool2d(map32, 1))
        context16 = self.up32(resize(self.refine32(map32) + mean, map16.shape[-2:], "nearest"))
        context8 = self.up16(resize(self.refine16(map16) + context16, map8.shape[-2:], "nearest"))
        return context8, context16


class FeatureFusion(nn.Module):
    """Both paths side by side through a 1x1 convolution; the result is added to itself weighed by a gate on its global
    mean (figure 2c).
    """

    def __init__(self, in_channels: int, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 1)
        self.gate = gate

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.conv(torch.cat([spatial, context], dim=1))
        return x + x * self.gate(functional.adaptive_avg_pool2d(x, 1)).sigmoid()


class BiSeNetV1(Model):
    """Any input size. Two auxiliary outputs, from the context path at strides 8 and 16 (the paper weighs their losses
    1).
    """

    published: ClassVar[Names] = (
        (r"^backbone\.", ""),
        (r"^ffm\.conv1\.", "fusion.conv."),
        (r"^ffm\.conv_atten\.0\.", "fusion.gate."),
        (r"^context_path\.gap_conv\.1\.", "context_path.mean."),
        (r"^context_path\.conv_head(\d+)\.", r"context_path.up\1."),
        (r"^context_path\.arm(\d+)\.conv_layer\.", r"context_path.refine\1.conv."),
        (r"^context_path\.arm(\d+)\.atten_conv_layer\.1\.", r"context_path.refine\1.gate."),
        *((rf"^spatial_path\.layer{i + 1}\.", f"spatial_path.{i}.") for i in range(4)),
        *HEADS,
    )

    def translate(self, key: str) -> str:
        body = "backbone.context_path.backbone."
        if key.startswith(body):
            return f"context_path.encoder.{self.context_path.encoder.translate(key.removeprefix(body))}"
        return super().translate(key)

    def __init__(
        self,
        context_path: ContextPath,
        spatial_path: nn.Module,
        fusion: FeatureFusion,
        head: nn.Module,
        auxiliary_heads: nn.ModuleList,
    ) -> None:
        super().__init__()
        self.context_path = context_path
        self.spatial_path = spatial_path
        self.fusion = fusion
        self.head = head
        self.auxiliary_heads = auxiliary_heads

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        context8, context16 = self.context_path(images)
        spatial = self.spatial_path(images)
        logits = resize(self.head(self.fusion(spatial, context8)), images.shape[-2:])
        if not self.training or not self.auxiliary_heads:
            return PixelOutput(logits)
        auxiliary = (head(x) for head, x in zip(self.auxiliary_heads, (context8, context16), strict=True))
        return PixelOutput(logits, tuple(resize(x, images.shape[-2:]) for x in auxiliary))

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.head, *self.auxiliary_heads)


def _head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(in_channels, channels), nn.Dropout2d(0.1), nn.Conv2d(channels, num_classes, 1))


RECIPE: dict[str, Any] = {
    "auxiliary_weights": (1.0,),
    "optimizer": "sgd",
    "lr": 0.025,
    "weight_decay": 1e-4,
    "schedule": "polynomial",
    "batch_size": 16,
}  # section 4.1


@register_model(
    "bisenet_v1_xception39",
    Card(
        PAPER,
        2018,
        parameters=2_159_921,
        num_classes=19,
        size=(512, 1024),
        gmac=9.82,
        source="own count",
        result="Cityscapes test: mIoU 68.4 (paper)",
        **RECIPE,
    ),
)
def bisenet_v1_xception39(
    num_classes: int, in_channels: int = 3, body: Body = Body("xception39"), auxiliary: bool = True
) -> BiSeNetV1:
    """The paper's fast form: three strided convolutions in the spatial path; gate 1x1, ReLU, 1x1."""
    encoder = body.build(in_channels)
    spatial = nn.Sequential(ConvNormAct(in_channels, 64, 3, 2), ConvNormAct(64, 64, 3, 2), ConvNormAct(64, 128, 3, 2))
    gate = nn.Sequential(nn.Conv2d(256, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 1))
    auxiliary_heads = nn.ModuleList(_head(128, 64, num_classes) for _ in range(2 if auxiliary else 0))
    return BiSeNetV1(
        ContextPath(encoder, 128), spatial, FeatureFusion(256, 256, gate), _head(256, 256, num_classes), auxiliary_heads
    )


@register_model(
    "bisenet_v1_resnet18",
    Card(
        PAPER,
        2018,
        parameters=13_512_121,
        num_classes=19,
        size=(512, 1024),
        gmac=28.81,
        source="own count",
        result="Cityscapes test: mIoU 74.7 (paper)",
        **RECIPE,
    ),
)
def bisenet_v1_resnet18(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet18"), auxiliary: bool = True
) -> BiSeNetV1:
    """The paper's accurate form, on ResNet-18."""
    return bisenet_v1_xception39(num_classes, in_channels, body, auxiliary)


@register_model(
    "bisenet_v1_r18",
    Card(
        PAPER,
        2018,
        parameters=13_425_721,
        num_classes=19,
        size=(512, 1024),
        gmac=29.58,
        source="mmsegmentation 1.2.2 bisenetv1_r18-d32, counted",
        result="Cityscapes val: mIoU 75.16 (mmsegmentation)",
        **RECIPE,
    ),
)
def bisenet_v1_r18(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet18"), auxiliary: bool = True
) -> BiSeNetV1:
    """mmseg's form on ResNet-18."""
    return _mmseg(num_classes, body.build(in_channels), auxiliary, scale=1)


@register_model(
    "bisenet_v1_r50",
    Card(
        PAPER,
        2018,
        parameters=59_243_385,
        num_classes=19,
        size=(512, 1024),
        gmac=197.59,
        source="mmsegmentation 1.2.2 bisenetv1_r50-d32, counted",
        **RECIPE,
    ),
)
def bisenet_v1_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50"), auxiliary: bool = True
) -> BiSeNetV1:
    """mmseg's form on ResNet-50, all decoder channels four times as many."""
    return _mmseg(num_classes, body.build(in_channels), auxiliary, scale=4)


def _mmseg(num_classes: int, encoder: Encoder, auxiliary: bool, scale: int) -> BiSeNetV1:
    """A 7x7 first and a 1x1 last convolution in the spatial path; gate 1x1, batch norm and ReLU (so it never goes below
    1/2); channels times ``scale``.
    """
    narrow, wide = 64 * scale, 128 * scale
    spatial = nn.Sequential(
        ConvNormAct(encoder.in_channels, narrow, 7, 2),
        ConvNormAct(narrow, narrow, 3, 2),
        ConvNormAct(narrow, narrow, 3, 2),
        ConvNormAct(narrow, wide, 1),
    )
    gate = ConvNormAct(2 * wide, 2 * wide, 1)
    auxiliary_heads = nn.ModuleList(_head(wide, narrow, num_classes) for _ in range(2 if auxiliary else 0))
    fusion = FeatureFusion(2 * wide, 2 * wide, gate)
    return BiSeNetV1(
        ContextPath(encoder, wide), spatial, fusion, _head(2 * wide, 2 * wide, num_classes), auxiliary_heads
    )

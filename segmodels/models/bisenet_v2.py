"""BiSeNet V2 (Yu et al.: BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation,
IJCV 2021, arXiv 2004.02147).

A wide shallow detail branch at stride 8, a thin deep semantic branch at stride 32, each of which gates the other in the
aggregation layer. Four booster heads on the stages of the semantic branch help training and vanish after it. Where
figures and tables are silent (ReLUs inside the layers, batch norm and ReLU after the last convolutions of the context
and aggregation layers) mmseg's form is taken, whose counts and results are known.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.layers.blocks import ConvNormAct, check_images, resize
from segmodels.layers.names import Names
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Yu et al.: BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation, IJCV 2021,"
    " arXiv 2004.02147"
)


class Stem(nn.Module):
    """To stride 4 by a max-pool and by strided convolutions, side by side, and fused (figure 4a)."""

    def __init__(self, in_channels: int, channels: int = 16) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, channels, 3, 2)
        self.convs = nn.Sequential(ConvNormAct(channels, channels // 2, 1), ConvNormAct(channels // 2, channels, 3, 2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.fuse = ConvNormAct(2 * channels, channels)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        return self.fuse(torch.cat([self.convs(x), self.pool(x)], dim=1))


class GatherExpand(nn.Module):
    """3x3, depthwise 3x3 into ``expansion`` times the channels, 1x1 back, and a shortcut (figure 5); stride 2 takes a
    second depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int = 6) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.gather = ConvNormAct(in_channels, in_channels)
        if stride == 1:
            self.expand: nn.Module = ConvNormAct(in_channels, wide, groups=in_channels)
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.expand = nn.Sequential(
                ConvNormAct(in_channels, wide, 3, stride, groups=in_channels, activation=None),
                ConvNormAct(wide, wide, groups=wide),
            )
            self.shortcut = nn.Sequential(
                ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels, activation=None),
                ConvNormAct(in_channels, out_channels, 1, activation=None),
            )
        self.project = ConvNormAct(wide, out_channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.project(self.expand(self.gather(x))) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """The global mean of each channel, normalised and mixed, added to every position (figure 4b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.mix = ConvNormAct(channels, channels, 1)
        self.last = ConvNormAct(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.mix(self.norm(functional.adaptive_avg_pool2d(x, 1))))


class GuidedAggregation(nn.Module):
    """Bilateral guided aggregation (figure 6): the semantic branch gates the detail at stride 8, the detail branch
    gates the semantics at stride 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = _separable(channels)
        self.detail_down = nn.Sequential(ConvNormAct(channels, channels, 3, 2, activation=None), nn.AvgPool2d(3, 2, 1))
        self.semantic = _separable(channels)
        self.semantic_up = ConvNormAct(channels, channels, activation=None)
        self.last = ConvNormAct(channels, channels)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = detail.shape[-2:]
        fine = self.detail(detail) * resize(self.semantic_up(semantic), size).sigmoid()
        coarse = self.detail_down(detail) * self.semantic(semantic).sigmoid()
        return self.last(fine + resize(coarse, size))


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(channels, channels, groups=channels, activation=None), nn.Conv2d(channels, channels, 1)
    )


class BiSeNetV2(Model):
    """Any input size. Four auxiliary outputs, of the boosters on the semantic branch at strides 4, 8, 16 and 32 (the
    paper weighs their losses 1).
    """

    published: ClassVar[Names] = (
        (r"^backbone\.", ""),
        *(
            (rf"^detail\.detail_branch\.{stage}\.{layer}\.", f"detail.{first + layer}.")
            for stage, first, layers in ((0, 0, 2), (1, 2, 3), (2, 5, 3))
            for layer in range(layers)
        ),
        *((rf"^semantic\.stage{i + 1}\.", f"semantic.{i}.") for i in range(4)),
        (r"\.conv_first\.", ".first."),
        (r"\.fuse_last\.", ".fuse."),
        (r"^(semantic\.\d\.\d)\.conv1\.", r"\1.gather."),
        (r"^(semantic\.\d\.0)\.dwconv\.", r"\1.expand."),
        (r"^(semantic\.\d\.\d)\.dwconv\.0\.", r"\1.expand."),
        (r"^(semantic\.\d\.\d)\.conv2\.0\.", r"\1.project."),
        (r"\.shortcut\.0\.depthwise_conv\.", ".shortcut.0."),
        (r"\.shortcut\.0\.pointwise_conv\.", ".shortcut.1."),
        (r"^semantic\.stage4_CEBlock\.gap\.1\.", "context.norm."),
        (r"^semantic\.stage4_CEBlock\.conv_gap\.", "context.mix."),
        (r"^semantic\.stage4_CEBlock\.conv_last\.", "context.last."),
        (r"^bga\.(detail|semantic)_dwconv\.0\.depthwise_conv\.", r"aggregation.\1.0."),
        (r"^bga\.(detail|semantic)_dwconv\.0\.pointwise_conv\.conv\.", r"aggregation.\1.1."),
        (r"^bga\.detail_down\.", "aggregation.detail_down."),
        (r"^bga\.semantic_conv\.0\.", "aggregation.semantic_up."),
        (r"^bga\.conv\.", "aggregation.last."),
        (r"^decode_head\.convs\.0\.", "head.0."),
        (r"^decode_head\.conv_seg\.", "head.2."),
        (r"^auxiliary_head\.(\d)\.convs\.", r"boosters.\1."),
        (r"^auxiliary_head\.(\d)\.conv_seg\.", r"boosters.\1.3."),
    )

    def __init__(self, num_classes: int, in_channels: int = 3, auxiliary: bool = True) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.detail = nn.Sequential(
            *(ConvNormAct(in_channels, 64, 3, 2), ConvNormAct(64, 64)),
            *(ConvNormAct(64, 64, 3, 2), ConvNormAct(64, 64), ConvNormAct(64, 64)),
            *(ConvNormAct(64, 128, 3, 2), ConvNormAct(128, 128), ConvNormAct(128, 128)),
        )
        self.semantic = nn.ModuleList(
            [
                Stem(in_channels),
                nn.Sequential(GatherExpand(16, 32, 2), GatherExpand(32, 32, 1)),
                nn.Sequential(GatherExpand(32, 64, 2), GatherExpand(64, 64, 1)),
                nn.Sequential(GatherExpand(64, 128, 2), *(GatherExpand(128, 128, 1) for _ in range(3))),
            ]
        )
        self.context = ContextEmbedding(128)
        self.aggregation = GuidedAggregation(128)
        self.head = nn.Sequential(ConvNormAct(128, 1024), nn.Dropout2d(0.1), nn.Conv2d(1024, num_classes, 1))
        boosters = ((16, 16), (32, 64), (64, 256), (128, 1024)) if auxiliary else ()
        self.boosters = nn.ModuleList(_booster(*widths, num_classes) for widths in boosters)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        x, maps = images, []
        for stage in self.semantic:
            x = stage(x)
            maps.append(x)
        logits = resize(self.head(self.aggregation(self.detail(images), self.context(x))), images.shape[-2:])
        if not self.training or not self.boosters:
            return PixelOutput(logits)
        return PixelOutput(
            logits, tuple(resize(booster(x), images.shape[-2:]) for booster, x in zip(self.boosters, maps, strict=True))
        )

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.head, *self.boosters)


def _booster(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, channels),
        ConvNormAct(channels, channels),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )


@register_model(
    "bisenet_v2",
    Card(
        PAPER,
        2020,
        parameters=14_804_255,
        num_classes=19,
        size=(512, 1024),
        gmac=24.6,
        source="mmsegmentation 1.2.2 bisenetv2, counted (3,358,883 parameters without the boosters)",
        result="Cityscapes test: mIoU 72.6 at 156 frames/s (paper)",
        auxiliary_weights=(1.0,),
        optimizer="sgd",
        lr=0.05,
        weight_decay=5e-4,
        schedule="polynomial",
        batch_size=16,
    ),
)
def bisenet_v2(num_classes: int, in_channels: int = 3, auxiliary: bool = True) -> BiSeNetV2:
    """BiSeNet V2 with the paper's channels (table 1)."""
    return BiSeNetV2(num_classes, in_channels, auxiliary)

"""DFANet (Li et al.: DFANet: Deep Feature Aggregation for Real-Time Semantic Segmentation, CVPR 2019, arXiv
1904.02216).

Three light Xception bodies in a row. Each ends in a channel attention whose map, upsampled to the size of its first
stage, is the next body's input (sub-network aggregation); stages of the same depth are joined as well (sub-stage
aggregation). The decoder sums the bodies' first stages for detail and their attention maps for context.

The authors released no code and the paper leaves room. This reading - a block is three separable convolutions of width
c, c and 4c, and the first block of a stage strides - gives the published 3.4 G multiply-accumulates, but not the
published 7.8 M parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.xception import light_stage
from segmodels.layers.blocks import ConvNormAct, check_images, resize
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Li et al.: DFANet: Deep Feature Aggregation for Real-Time Semantic Segmentation, CVPR 2019, arXiv 1904.02216"


class ChannelAttention(nn.Module):
    """The body's classifier as a gate: global mean, fully connected to 1000, back to the channels by a 1x1 convolution,
    times the features.
    """

    def __init__(self, channels: int, classes: int = 1000) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)
        self.conv = ConvNormAct(classes, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return x * self.conv(weights[:, :, None, None])


class LightXception(nn.Module):
    """Stages enc2, enc3 and enc4 of 4, 6 and 4 blocks, each of which halves the size, and the attention; width c gives
    4c channels.

    ``joined``: channels of the maps of the body before that are put beside the input of enc3 and enc4.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], joined: Sequence[int] = (0, 0)) -> None:
        super().__init__()
        self.enc2 = light_stage(in_channels, widths[0], 4)
        self.enc3 = light_stage(4 * widths[0] + joined[0], widths[1], 6)
        self.enc4 = light_stage(4 * widths[1] + joined[1], widths[2], 4)
        self.fca = ChannelAttention(4 * widths[2])

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps of enc2, enc3, enc4 and of the attention; ``before`` are enc3's and enc4's of the body before."""
        enc2 = self.enc2(x)
        enc3 = self.enc3(enc2 if before is None else _join(enc2, before[0]))
        enc4 = self.enc4(enc3 if before is None else _join(enc3, before[1]))
        return enc2, enc3, enc4, self.fca(enc4)


def _join(x: Tensor, other: Tensor) -> Tensor:
    """Side by side; on inputs that 64 does not divide the sizes differ by a pixel, and the other map is
    interpolated.
    """
    return torch.cat([x, resize(other, x.shape[-2:])], dim=1)


class DFANet(Model):
    """Any input size."""

    def __init__(
        self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = (12, 24, 48), channels: int = 32
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        fine, middle, coarse = (4 * width for width in widths)
        self.stem = ConvNormAct(in_channels, 8, 3, 2)
        later = (LightXception(fine + coarse, widths, joined=(middle, coarse)) for _ in range(2))
        self.bodies = nn.ModuleList([LightXception(8, widths), *later])
        self.detail = ConvNormAct(fine, channels, 1)
        self.context = nn.ModuleList(ConvNormAct(coarse, channels, 1) for _ in range(3))
        self.fuse = ConvNormAct(channels, channels)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        x = self.stem(images)
        before, details, contexts = None, [], []
        for body in self.bodies:
            enc2, enc3, enc4, fca = body(x, before)
            before = (enc3, enc4)
            x = torch.cat([enc2, resize(fca, enc2.shape[-2:])], dim=1)
            details.append(enc2)
            contexts.append(fca)
        size = details[0].shape[-2:]
        detail = self.detail(details[0] + resize(details[1], size) + resize(details[2], size))
        for conv, fca in zip(self.context, contexts, strict=True):
            detail = detail + resize(conv(fca), size)
        return PixelOutput(resize(self.classifier(self.fuse(detail)), images.shape[-2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.classifier]


RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.2,
    "weight_decay": 1e-5,
    "schedule": "polynomial",
    "batch_size": 48,
}  # section 4.1


@register_model(
    "dfanet_a",
    Card(
        PAPER,
        2019,
        parameters=1_821_243,
        num_classes=19,
        size=(1024, 1024),
        gmac=3.39,
        source="own count; paper: 3.4 G at 1024 x 1024, and 7.8M parameters",
        result="Cityscapes test: mIoU 71.3 (paper)",
        **RECIPE,
    ),
)
def dfanet_a(num_classes: int, in_channels: int = 3) -> DFANet:
    """DFANet A: three bodies XceptionA of 48, 96 and 192 channels."""
    return DFANet(num_classes, in_channels)


@register_model(
    "dfanet_b",
    Card(
        PAPER,
        2019,
        parameters=1_096_027,
        num_classes=19,
        size=(1024, 1024),
        gmac=2.03,
        source="own count",
        result="Cityscapes test: mIoU 67.1 (paper)",
        **RECIPE,
    ),
)
def dfanet_b(num_classes: int, in_channels: int = 3) -> DFANet:
    """DFANet B: three bodies XceptionB of 32, 64 and 128 channels."""
    return DFANet(num_classes, in_channels, widths=(8, 16, 32))

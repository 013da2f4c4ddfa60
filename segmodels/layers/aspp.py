"""Atrous spatial pyramid pooling: the map convolved at several dilations side by side.

Summed in DeepLab v2 (Chen et al., TPAMI 2018, arXiv 1606.00915, section 3.2), concatenated with a pooled branch in
DeepLab v3 (Chen et al., arXiv 1706.05587, section 3.3), with separable convolutions in DeepLab v3+ (Chen et al., ECCV
2018, arXiv 1802.02611, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import check_positive, resize
from segmodels.layers.names import ASPP as ASPP_NAMES
from segmodels.layers.names import Names


class SummedASPP(nn.Module):
    """DeepLab v2's form: every branch goes all the way to the classes, and the scores are added. ``(B, in_channels, h,
    w)`` to ``(B, num_classes, h, w)``.

    Args:
        rates: dilation of each branch's 3x3 convolution.
        hidden: None makes a branch one 3x3 convolution (the paper's ResNet); a number makes it an ``AtrousClassifier``
            of that width (the paper's VGG).
    """

    def __init__(
        self, in_channels: int, num_classes: int, rates: Sequence[int] = (6, 12, 18, 24), hidden: int | None = None
    ) -> None:
        super().__init__()
        check_positive("rates of ASPP", *rates)
        self.branches = nn.ModuleList(
            (
                _scores(in_channels, num_classes, 3, rate)
                if hidden is None
                else AtrousClassifier(in_channels, num_classes, 3, rate, hidden)
            )
            for rate in rates
        )

    def forward(self, x: Tensor) -> Tensor:
        scores = self.branches[0](x)
        for branch in self.branches[1:]:
            scores = scores + branch(x)
        return scores


class AtrousClassifier(nn.Sequential):
    """VGG's fully connected layers as convolutions, the first one dilated: the head of DeepLab v1, and a branch of
    DeepLab v2's on VGG.

    Args:
        kernel_size, rate: of the first convolution.
        hidden: width of the first two.
        pool5a: a 3x3 average pool of stride 1 comes first, as in the released LargeFOV models.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        kernel_size: int,
        rate: int,
        hidden: int,
        dropout: float = 0.5,
        pool5a: bool = False,
    ) -> None:
        super().__init__()
        check_positive("rate", rate)
        if pool5a:
            self.pool5a = nn.AvgPool2d(3, 1, 1)
        self.fc6 = nn.Conv2d(in_channels, hidden, kernel_size, padding=rate * (kernel_size - 1) // 2, dilation=rate)
        self.relu6 = nn.ReLU()
        self.drop6 = nn.Dropout(dropout)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.relu7 = nn.ReLU()
        self.drop7 = nn.Dropout(dropout)
        self.fc8 = _scores(hidden, num_classes, 1, 1)


def _scores(in_channels: int, num_classes: int, kernel_size: int, rate: int) -> nn.Conv2d:
    """A convolution to the classes that starts near zero: weights from N(0, 0.01^2), as the authors' release."""
    layer = nn.Conv2d(in_channels, num_classes, kernel_size, padding=rate * (kernel_size // 2), dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    return layer


class ASPP(nn.Module):
    """DeepLab v3's form: a 1x1 convolution, dilated 3x3 convolutions and the pooled image side by side, then a
    projection; batch norm and ReLU after each.

    ``(B, in_channels, h, w)`` to ``(B, channels, h, w)``; keys as torchvision's. The pooled image has one value per
    channel and image, so that batch norm trains with batches of two or more only.

    Args:
        rates: dilation of each 3x3 convolution: 6, 12, 18 at output stride 16, twice as much at 8.
        separable: the 3x3 convolutions are depthwise and 1x1, with batch norm and ReLU after both.
        pooling_first: the pooled image comes before the other branches, as in mmseg; after them, as in the paper and
            torchvision.
        projection: size of the last convolution's kernel: 1 in the paper, 3 in mmseg.
        dropout: after the projection.
        drop_channels: dropout leaves out whole channels, as in mmseg, not single elements.
    """

    published: ClassVar[Names] = ASPP_NAMES

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable: bool = False,
        pooling_first: bool = False,
        projection: int = 1,
        dropout: float = 0.5,
        drop_channels: bool = False,
    ) -> None:
        super().__init__()
        check_positive("rates of ASPP", *rates)
        self.channels = channels
        atrous = separable_conv if separable else conv
        convs = [conv(in_channels, channels, 1), *(atrous(in_channels, channels, 3, rate) for rate in rates)]
        pooling = ImagePooling(in_channels, channels)
        self.convs = nn.ModuleList([pooling, *convs] if pooling_first else [*convs, pooling])
        self.project = conv(len(self.convs) * channels, channels, projection).append(
            nn.Dropout2d(dropout) if drop_channels else nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.convs], dim=1))


class ImagePooling(nn.Sequential):
    """The mean of the whole map through a 1x1 convolution, repeated at every position."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv(in_channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return resize(super().forward(x), x.shape[-2:])


def conv(in_channels: int, channels: int, kernel_size: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU that keep the size, numbered as in torchvision."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def separable_conv(in_channels: int, channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise convolution and 1x1 convolution, batch norm and ReLU after both."""
    return nn.Sequential(
        *conv(in_channels, in_channels, kernel_size, dilation, in_channels), *conv(in_channels, channels, 1)
    )


def rates_at(output_stride: int) -> tuple[int, ...]:
    """Dilations of ASPP that see the same parts of the image at every output stride: 6, 12, 18 at 16, and 12, 24, 36 at
    8.
    """
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))

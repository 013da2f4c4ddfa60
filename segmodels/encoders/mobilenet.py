"""MobileNet-V2 (Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018).

The keys are torchvision's; timm's are translated. The last 1x1 convolution to 1280 channels belongs to classification
and is left out, as in DeepLab.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.layers.blocks import check_images

# Table 2 of the paper: expansion, channels, blocks, stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where input and output have the same shape."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [_conv(in_channels, hidden, 1)] if expansion > 1 else []
        layers.append(_conv(hidden, hidden, 3, stride, dilation, groups=hidden))
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, dilation * (size // 2), dilation, groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(Encoder):
    """Maps: the last of each size (strides 2, 4, 8, 16, 32; 16, 24, 32, 96 and 320 channels).

    Args:
        output_stride: 32, 16 or 8; in place of a stride all later depthwise convolutions dilate.
    """

    classifier = ("features.18.", "classifier.")
    first_layer = "features.0.0.weight"

    def __init__(self, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        check_output_stride("MobileNet-V2", output_stride, (8, 16, 32))
        self.in_channels = in_channels
        self.channels = (16, 24, 32, 96, 320)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        layers: list[nn.Module] = [_conv(in_channels, 32, 3, 2)]
        channels, reached, dilation = 32, 2, 1
        for expansion, width, blocks, stride in STAGES:
            for i in range(blocks):
                wanted = stride if i == 0 else 1
                taken = wanted if reached * wanted <= output_stride else 1
                layers.append(InvertedResidual(channels, width, expansion, taken, dilation))
                channels, reached, dilation = width, reached * taken, dilation * wanted // taken
        self.features = nn.Sequential(*layers)
        self.ends = (1, 3, 6, 13, 17)  # the last block of each size
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        maps, x = [], images
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.ends:
                maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        starts = (0, *(end + 1 for end in self.ends))
        return [list(self.features)[start : end + 1] for start, end in zip(starts, self.ends, strict=False)]

    def translate(self, key: str) -> str:
        """timm's names: ``conv_stem``, ``blocks.<stage>.<block>.conv_pw``, ... ``conv_head``."""
        if key.startswith("conv_stem."):
            return key.replace("conv_stem.", "features.0.0.")
        if key.startswith("bn1."):
            return key.replace("bn1.", "features.0.1.")
        if key.startswith(("conv_head.", "bn2.")):
            return f"features.18.{key}"
        match = re.fullmatch(r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)", key)
        if match is None:
            return key
        stage, block, layer, part = int(match[1]), int(match[2]), match[3], match[4]
        ours = TIMM_DEPTHWISE if stage == 0 else TIMM_INVERTED
        return f"features.{1 + sum(blocks for _, _, blocks, _ in STAGES[:stage]) + block}.conv.{ours[layer]}.{part}"


TIMM_DEPTHWISE = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
TIMM_INVERTED = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}


@register_encoder("mobilenet_v2")
def mobilenet_v2(in_channels: int = 3, output_stride: int = 32) -> MobileNetV2:
    """MobileNet-V2 of width 1."""
    return MobileNetV2(in_channels, output_stride)

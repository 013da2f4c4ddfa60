"""VGG-16 (Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015), without
and with batch norm.

The keys are those of torchvision (``features.0.weight``, ...), which timm shares.
"""

from __future__ import annotations

from torch import Tensor, nn

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.errors import InputError
from segmodels.layers.blocks import check_images, check_size

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(Encoder):
    """Maps: after each of the five max-pools (strides 2, 4, 8, 16, 32).

    Args:
        output_stride: 32; 16: the last pool has stride 1; 8: the last two, and the last three convolutions have
            dilation 2 (DeepLab, Chen et al. 2015).
        pool: kernel of the pools that halve the size: 2, or 3 with padding 1 as in DeepLab. Pools of stride 1 are
            always 3x3, which keeps the size.
        ceil_mode: pools round sizes up, as Caffe did.
    """

    classifier = ("classifier.", "pre_logits.", "head.")
    first_layer = "features.0.weight"

    def __init__(
        self, batch_norm: bool, in_channels: int = 3, output_stride: int = 32, pool: int = 2, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        check_output_stride("VGG-16", output_stride, (8, 16, 32))
        if pool not in (2, 3):
            raise InputError(f"pool of VGG-16 is {pool}, expected 2 or 3, the size of the max-pools' windows")
        self.in_channels = in_channels
        self.ceil_mode = ceil_mode
        self.channels = tuple(widths[-1] for widths in STAGES)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        layers: list[nn.Module] = []
        channels, dilation = in_channels, 1
        for stride, widths in zip((2, 4, 8, 16, 32), STAGES, strict=True):
            for width in widths:
                layers.append(nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation))
                layers += [nn.BatchNorm2d(width)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                channels = width
            if stride <= output_stride:
                layers.append(nn.MaxPool2d(pool, 2, pool // 3, ceil_mode=ceil_mode))
            else:
                layers.append(nn.MaxPool2d(3, 1, 1))
                dilation *= 2
        self.features = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        if not self.ceil_mode:
            check_size(images, self.strides[-1], "VGG-16")
        maps, x = [], images
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        groups: list[list[nn.Module]] = [[]]
        for layer in self.features:
            groups[-1].append(layer)
            if isinstance(layer, nn.MaxPool2d):
                groups.append([])
        return groups[:-1]


@register_encoder("vgg16")
def vgg16(in_channels: int = 3, output_stride: int = 32, pool: int = 2, ceil_mode: bool = False) -> VGG:
    """The paper's configuration D."""
    return VGG(False, in_channels, output_stride, pool, ceil_mode)


@register_encoder("vgg16_bn")
def vgg16_bn(in_channels: int = 3, output_stride: int = 32, pool: int = 2, ceil_mode: bool = False) -> VGG:
    """Configuration D with batch norm after every convolution."""
    return VGG(True, in_channels, output_stride, pool, ceil_mode)


def check_vgg(encoder: Encoder, system: str) -> None:
    """Raise InputError unless the encoder is a VGG, whose layers ``system`` reads."""
    if not isinstance(encoder, VGG):
        raise InputError(
            f"the encoder of {system} is {type(encoder).__name__}, expected VGG-16, whose layers it reads: set encoder"
            " to vgg16 or vgg16_bn"
        )

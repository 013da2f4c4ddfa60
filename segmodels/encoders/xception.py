"""Xception (Chollet, CVPR 2017) in the two forms that segmentation uses: aligned Xception-65 and the light
Xception-39.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.layers.blocks import ConvNormAct, check_images


class AlignedSeparableConv(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, batch norm after each, ReLU after each only where ``activate``; keys
    of timm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, activate: bool) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, 3, stride, dilation, dilation, in_channels, bias=False)
        self.bn_dw = nn.BatchNorm2d(in_channels, eps=1e-3)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn_pw = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.act = nn.ReLU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn_dw(self.conv_dw(x)))
        return self.act(self.bn_pw(self.conv_pw(x)))


class AlignedBlock(nn.Module):
    """Three separable convolutions, the last of which strides; ReLU before each, or (exit flow) inside each and no
    shortcut.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], stride: int, dilation: int, exit_flow: bool) -> None:
        super().__init__()
        self.stack = nn.Sequential()
        for i, (before, after) in enumerate(zip((in_channels, *widths), widths, strict=False), start=1):
            if not exit_flow:
                self.stack.add_module(f"act{i}", nn.ReLU())
            self.stack.add_module(
                f"conv{i}", AlignedSeparableConv(before, after, stride if i == 3 else 1, dilation, activate=exit_flow)
            )
        self.residual = not exit_flow
        if self.residual and (stride > 1 or in_channels != widths[-1]):
            self.shortcut: nn.Module = nn.Sequential()
            self.shortcut.add_module("conv", nn.Conv2d(in_channels, widths[-1], 1, stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(widths[-1], eps=1e-3))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x) + self.shortcut(x) if self.residual else self.stack(x)


class AlignedXception65(Encoder):
    """Aligned Xception (Chen et al., DeepLab v3+, 1802.02611, figure 4): no max-pools, 16 middle blocks, batch norm
    after every depthwise convolution.

    Maps: after the first convolution pair (stride 2), inside the second entry block before it strides (4), after the
    second and third entry blocks (8, 16) and the exit flow (32). The map at stride 4 is the one that the authors'
    release reads (``entry_flow/block2/unit_1/xception_module/separable_conv2_pointwise``). The keys and the epsilon of
    the batch norms (1e-3, as in TensorFlow) are those of timm's ``xception65``.

    Args:
        output_stride: 32, 16 or 8; in place of a stride all later depthwise convolutions dilate.
    """

    classifier = ("head.", "fc.")
    first_layer = "stem.0.conv.weight"

    def __init__(self, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        check_output_stride("Xception-65", output_stride, (8, 16, 32))
        self.in_channels = in_channels
        self.channels = (64, 256, 256, 728, 2048)
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        self.stem = nn.Sequential(_stem_conv(in_channels, 32, 2), _stem_conv(32, 64, 1))
        plan = [
            ((128,) * 3, 2),
            ((256,) * 3, 2),
            ((728,) * 3, 2),
            *[((728,) * 3, 1)] * 16,
            ((728, 1024, 1024), 2),
            ((1536, 1536, 2048), 1),
        ]
        self.blocks = nn.Sequential()
        channels, reached, dilation = 64, 2, 1
        for i, (widths, wanted) in enumerate(plan):
            taken = wanted if reached * wanted <= output_stride else 1
            self.blocks.append(AlignedBlock(channels, widths, taken, dilation, exit_flow=i == len(plan) - 1))
            channels, reached, dilation = widths[-1], reached * taken, dilation * wanted // taken
        _initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        maps = [self.stem(images)]
        second = self._second_block()
        x = self.blocks[0](maps[0])
        maps.append(second.stack[:4](x))
        x = second.stack[4:](maps[1]) + second.shortcut(x)
        maps.append(x)
        for blocks in (self.blocks[2:19], self.blocks[19:]):
            maps.append(blocks(maps[-1]))
        return maps

    def stages(self) -> list[list[nn.Module]]:
        second = self._second_block()
        entry: list[list[nn.Module]] = [[self.blocks[0], second.stack[:4]], [second.stack[4:], second.shortcut]]
        return [[self.stem], *entry, [self.blocks[2:19]], [self.blocks[19:]]]

    def _second_block(self) -> AlignedBlock:
        return cast("AlignedBlock", self.blocks[1])


def _stem_conv(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False))
    layer.add_module("bn", nn.BatchNorm2d(out_channels, eps=1e-3))
    layer.add_module("act", nn.ReLU())
    return layer


class LightBlock(nn.Module):
    """Three depthwise-separable convolutions of ``width``, ``width`` and ``4 * width`` channels and a shortcut; the
    first one strides.

    The block of Xception-39 (BiSeNet) and of DFANet's XceptionA. ReLU after the first two and after the sum.

    Args:
        separable_shortcut: a shortcut that strides is a depthwise-separable 3x3 convolution too, not a 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int, separable_shortcut: bool = False) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            _light_conv(in_channels, width, stride, nn.ReLU),
            _light_conv(width, width, 1, nn.ReLU),
            _light_conv(width, 4 * width, 1, None),
        )
        if stride == 1 and in_channels == 4 * width:
            self.shortcut: nn.Module = nn.Identity()
        elif separable_shortcut:
            self.shortcut = _light_conv(in_channels, 4 * width, stride, None)
        else:
            self.shortcut = ConvNormAct(in_channels, 4 * width, 1, stride, activation=None)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.convs(x) + self.shortcut(x))


def _light_conv(in_channels: int, out_channels: int, stride: int, activation: type[nn.Module] | None) -> nn.Sequential:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, ConvNormAct(in_channels, out_channels, 1, activation=activation))


def light_stage(in_channels: int, width: int, blocks: int, separable_shortcut: bool = False) -> nn.Sequential:
    """``blocks`` light blocks, the first of which halves the size; the output has ``4 * width`` channels."""
    first = LightBlock(in_channels, width, 2, separable_shortcut)
    return nn.Sequential(first, *(LightBlock(4 * width, width, 1) for _ in range(blocks - 1)))


class Xception39(Encoder):
    """The light body of BiSeNet V1 (Yu et al., 1808.00897), in the layout of its authors' release: a 3x3 convolution of
    8, a max-pool, and stages of 4, 8 and 4 blocks of width 16, 32 and 64, whose striding shortcuts are separable 3x3
    convolutions. Maps: of the convolution (stride 2), the pool (4) and the three stages (8, 16, 32).
    """

    classifier = ("fc.",)
    first_layer = "stem.conv.weight"

    def __init__(self, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        check_output_stride("Xception-39", output_stride, (32,))
        self.in_channels = in_channels
        self.channels = (8, 8, 64, 128, 256)
        self.strides = (2, 4, 8, 16, 32)
        self.stem = ConvNormAct(in_channels, 8, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = light_stage(8, 16, 4, separable_shortcut=True)
        self.layer2 = light_stage(64, 32, 8, separable_shortcut=True)
        self.layer3 = light_stage(128, 64, 4, separable_shortcut=True)
        _initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        maps = [self.stem(images)]
        for stage in (self.pool, self.layer1, self.layer2, self.layer3):
            maps.append(stage(maps[-1]))
        return maps

    def stages(self) -> list[list[nn.Module]]:
        return [[self.stem], [self.pool], [self.layer1], [self.layer2], [self.layer3]]

    def translate(self, key: str) -> str:
        """Names of the authors' release."""
        key = re.sub(r"^conv1\.", "stem.", key)
        key = re.sub(r"\.residual_branch\.", ".convs.", re.sub(r"\.proj\.", ".shortcut.", key))
        key = re.sub(r"\.point_wise_cbr\.", ".1.", re.sub(r"\.conv1\.", ".0.", key))
        return re.sub(r"\.bn\.", ".norm.", key)


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


@register_encoder("xception65")
def xception65(in_channels: int = 3, output_stride: int = 32) -> AlignedXception65:
    """Aligned Xception-65."""
    return AlignedXception65(in_channels, output_stride)


@register_encoder("xception39")
def xception39(in_channels: int = 3, output_stride: int = 32) -> Xception39:
    """Xception-39."""
    return Xception39(in_channels, output_stride)

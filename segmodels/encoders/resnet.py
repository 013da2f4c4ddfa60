"""ResNet-18 to ResNet-152 (He et al., Deep Residual Learning for Image Recognition, CVPR 2016).

The keys are those of torchvision and timm, so their checkpoints load as they are. As there, a bottleneck that halves
the size does it in its 3x3 convolution (the paper does it in the first 1x1; this form is a little better and all
current checkpoints have it; the paper's is an option).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.layers.blocks import check_images, check_positive
from segmodels.layers.names import Names, renamed
from segmodels.layers.switchable_conv import completed, make_switchable

TRANSFORMERS: Names = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    *((rf"^encoder\.stages\.{i}\.layers\.(\d+)\.", rf"layer{i + 1}.\1.") for i in range(4)),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
    *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ResNet-18 and -34."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor, feedback: Tensor | None = None) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.downsample(x)
        return self.relu(out if feedback is None else out + feedback)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; ResNet-50, -101 and -152."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor, feedback: Tensor | None = None) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = out + self.downsample(x)
        return self.relu(out if feedback is None else out + feedback)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if in_channels == channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet(Encoder):
    """Maps: after the stem (stride 2, before the max-pool) and after each of the four layers (4, 8, 16, 32).

    Args:
        block, depths: the kind of block and how many in each layer.
        output_stride: 32, 16 or 8; the last one or two layers then dilate instead of striding.
        contract_dilation: the first block of a dilated layer keeps the dilation of the layer before (torchvision, timm,
            mmseg: layer 3 at output stride 8 has 1, 2, 2, ...; layer 4 has 2, 4, 4); False dilates all blocks alike (2,
                2, 2, ...; 4, 4, 4).
        deep_stem: three 3x3 convolutions of 32, 32 and 64 channels for the 7x7 one ("ResNet-C", He et al. 2019,
            1812.01187; mmseg's V1c).
        multi_grid: factors on the dilation of the blocks of layer 4, such as (1, 2, 4) of DeepLab v3 (Chen et al. 2017,
            1706.05587, section 3.2.1); takes the place of the contraction there.
        stride_in_1x1: bottlenecks halve the size in their first 1x1 convolution, as the paper and the weights that were
            trained with Caffe.
        ceil_mode: the max-pool rounds sizes up, as Caffe did.
        switchable: the 3x3 convolutions of layers 2 to 4 are switchable atrous ones, all others standardise their
            kernels (DetectoRS, Qiao 2021, 2006.02334, section 4).
    """

    classifier = ("fc.",)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        in_channels: int = 3,
        output_stride: int = 32,
        contract_dilation: bool = True,
        deep_stem: bool = False,
        multi_grid: Sequence[int] | None = None,
        stride_in_1x1: bool = False,
        ceil_mode: bool = False,
        switchable: bool = False,
    ) -> None:
        super().__init__()
        check_output_stride("ResNet", output_stride, (8, 16, 32))
        self.in_channels = in_channels
        self.channels = (64, *(width * block.expansion for width in (64, 128, 256, 512)))
        self.strides = tuple(min(stride, output_stride) for stride in (2, 4, 8, 16, 32))
        self.first_layer = "conv1.0.weight" if deep_stem else "conv1.weight"
        self.form = "deep_stem" if deep_stem else ""

        self.conv1 = _deep_stem(in_channels) if deep_stem else nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil_mode)
        dilations = block_dilations(depths, output_stride, contract_dilation, multi_grid)
        halve = [stride <= output_stride for stride in (8, 16, 32)]
        self.layer1 = _layer(block, 64, 64, 1, dilations[0])
        self.layer2 = _layer(block, self.channels[1], 128, 1 + halve[0], dilations[1])
        self.layer3 = _layer(block, self.channels[2], 256, 1 + halve[1], dilations[2])
        self.layer4 = _layer(block, self.channels[3], 512, 1 + halve[2], dilations[3])
        if stride_in_1x1:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
        _initialise(self)
        if switchable:
            make_switchable(self, ("layer2", "layer3", "layer4"))

    def take_feedback(self, channels: int) -> None:
        """Add what ``forward`` needs to take maps of ``channels`` as feedback (DetectoRS, Qiao 2021, 2006.02334,
        section 3): a 1x1 convolution in the first block of each of the layers 2 to 4, which starts at 0.
        """
        for layer, own in zip((self.layer2, self.layer3, self.layer4), self.channels[2:], strict=True):
            conv = nn.Conv2d(channels, own, 1)
            nn.init.zeros_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            layer[0].rfp_conv = conv

    def forward(self, images: Tensor, feedback: Sequence[Tensor] = ()) -> list[Tensor]:
        """See ``Encoder``.

        Args:
            feedback: after ``take_feedback``, a map for each of the layers 2 to 4, of the size of the layer's own. What
                follows from it is added to the sum at the end of the layer's first block.
        """
        check_images(images, self.in_channels)
        maps = [self.relu(self.bn1(self.conv1(images)))]
        x = self.maxpool(maps[0])
        for number, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = _fed(layer, x, feedback[number - 1]) if feedback and number else layer(x)
            maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def translate(self, key: str) -> str:
        """mmsegmentation's deep stem (ResNetV1c) is one list of layers, ``stem``, whose last norm is ``bn1`` here;
        transformers names all of them otherwise.
        """
        return renamed(key, ((r"^stem\.7\.", "bn1."), (r"^stem\.", "conv1."), *TRANSFORMERS))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As of ``Encoder``; weights of plain convolutions give the same outputs in switchable ones."""
        return completed(super().adapt(state), self.state_dict())

    def advice(self, keys: Collection[str]) -> str:
        if "conv1.weight" in keys and self.first_layer == "conv1.0.weight":
            return "these have no deep stem, and this encoder has: set encoder_options {deep_stem: false}"
        if "conv1.0.weight" in keys and self.first_layer == "conv1.weight":
            return "these have a deep stem, and this encoder has none: set encoder_options {deep_stem: true}"
        return ""


def _deep_stem(in_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after, stride in ((in_channels, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(32, 64, 3, 1, 1, bias=False))


def _fed(layer: nn.Sequential, x: Tensor, feedback: Tensor) -> Tensor:
    first, *others = layer
    x = first(x, first.get_submodule("rfp_conv")(feedback))
    for block in others:
        x = block(x)
    return x


def block_dilations(
    depths: Sequence[int], output_stride: int, contract_dilation: bool = True, multi_grid: Sequence[int] | None = None
) -> list[list[tuple[int, int]]]:
    """For each block of each of the four layers: the dilation of its first 3x3 convolution and of its second (of
    BasicBlock).
    """
    of_layer = [max(1, stride // output_stride) for stride in (4, 8, 16, 32)]
    result = [[(dilation, dilation)] * depth for dilation, depth in zip(of_layer, depths, strict=True)]
    if contract_dilation:
        for layer, before in zip(result[1:], of_layer, strict=False):
            layer[0] = (before, layer[0][1])
    if multi_grid is not None:
        check_positive("multi_grid", *multi_grid)
        grid = [of_layer[3] * multi_grid[i % len(multi_grid)] for i in range(depths[3])]
        result[3] = [(dilation, dilation) for dilation in grid]
    return result


def _layer(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    stride: int,
    dilations: Sequence[tuple[int, int]],
) -> nn.Sequential:
    blocks = [block(in_channels, width, stride, *dilations[0])]
    blocks += [block(width * block.expansion, width, 1, *dilation) for dilation in dilations[1:]]
    return nn.Sequential(*blocks)


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


@register_encoder("resnet18")
def resnet18(in_channels: int = 3, output_stride: int = 32, **options: Any) -> ResNet:
    """ResNet-18; ``options`` are those of ``ResNet``."""
    return ResNet(BasicBlock, (2, 2, 2, 2), in_channels, output_stride, **options)


@register_encoder("resnet34")
def resnet34(in_channels: int = 3, output_stride: int = 32, **options: Any) -> ResNet:
    """ResNet-34; ``options`` are those of ``ResNet``."""
    return ResNet(BasicBlock, (3, 4, 6, 3), in_channels, output_stride, **options)


@register_encoder("resnet50")
def resnet50(in_channels: int = 3, output_stride: int = 32, **options: Any) -> ResNet:
    """ResNet-50; ``options`` are those of ``ResNet``."""
    return ResNet(Bottleneck, (3, 4, 6, 3), in_channels, output_stride, **options)


@register_encoder("resnet101")
def resnet101(in_channels: int = 3, output_stride: int = 32, **options: Any) -> ResNet:
    """ResNet-101; ``options`` are those of ``ResNet``."""
    return ResNet(Bottleneck, (3, 4, 23, 3), in_channels, output_stride, **options)


@register_encoder("resnet152")
def resnet152(in_channels: int = 3, output_stride: int = 32, **options: Any) -> ResNet:
    """ResNet-152; ``options`` are those of ``ResNet``."""
    return ResNet(Bottleneck, (3, 8, 36, 3), in_channels, output_stride, **options)

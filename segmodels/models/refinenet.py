"""RefineNet (Lin, Milan, Shen, Reid: RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic
Segmentation, CVPR 2017, arXiv 1611.06612).

A cascade from the coarsest map of a ResNet to its map at stride 4. Each step adapts the map of one stride by residual
units, fuses it with the coarser result, pools context in a chain of residual pooling, and refines the sum. The decoder
has no batch norm. Where the paper leaves details open (biases, four poolings, the place of the reductions) the
widespread PyTorch port of the authors' release is followed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import resize
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Lin, Milan, Shen, Reid: RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation, CVPR"
    " 2017, arXiv 1611.06612"
)
STRIDES = (32, 16, 8, 4)


def conv3x3(in_channels: int, out_channels: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


class ResidualConvUnit(nn.Module):
    """ReLU, 3x3, ReLU, 3x3 and a shortcut (figure 3b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, bias=True)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class ChainedResidualPooling(nn.Module):
    """ReLU, then a chain of 5x5 max-pools of stride 1 and 3x3 convolutions, the result of each added to the sum (figure
    3d).
    """

    def __init__(self, channels: int, poolings: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels, channels) for _ in range(poolings))

    def forward(self, x: Tensor) -> Tensor:
        total = path = functional.relu(x)
        for conv in self.convs:
            path = conv(functional.max_pool2d(path, 5, 1, 2))
            total = total + path
        return total


class RefineBlock(nn.Module):
    """One step of the cascade: the encoder's map, and the coarser step's result where there is one, to ``channels`` at
    the map's size.
    """

    def __init__(self, in_channels: int, channels: int, coarse_channels: int | None) -> None:
        super().__init__()
        self.reduce = conv3x3(in_channels, channels)
        self.adapt = nn.Sequential(ResidualConvUnit(channels), ResidualConvUnit(channels))
        if coarse_channels is not None:
            self.fuse_fine = conv3x3(channels, channels)
            self.fuse_coarse = conv3x3(coarse_channels, channels)
        self.pool = ChainedResidualPooling(channels)
        self.refine = nn.Sequential(*(ResidualConvUnit(channels) for _ in range(3)))

    def forward(self, features: Tensor, coarse: Tensor | None) -> Tensor:
        x = self.adapt(self.reduce(features))
        if coarse is not None:
            x = self.fuse_fine(x) + resize(self.fuse_coarse(coarse), features.shape[-2:], align_corners=True)
        return self.refine(self.pool(x))


class RefineNet(Model):
    """Four blocks over the encoder's four coarsest maps: 512 channels in the coarsest, 256 in the others. Dropout
    stands on the two coarsest maps and before the classes. Any input size.
    """

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        channels = encoder.channels_at(STRIDES)
        widths = (512, 256, 256, 256)
        self.blocks = nn.ModuleList(RefineBlock(*args) for args in zip(channels, widths, (None, *widths), strict=False))
        self.classifier = conv3x3(256, num_classes, bias=True)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder.maps(images, STRIDES)
        maps = [self.dropout(maps[0]), self.dropout(maps[1]), *maps[2:]]
        x = None
        for block, features in zip(self.blocks, maps, strict=True):
            x = block(features, x)
        return PixelOutput(resize(self.classifier(self.dropout(x)), images.shape[-2:], align_corners=True))

    def classifiers(self) -> list[nn.Module]:
        return [self.classifier]


@register_model(
    "refinenet_resnet101",
    Card(
        PAPER,
        2017,
        parameters=118_052_437,
        gmac=262.9,
        source="DrSleep/refinenet-pytorch, a port of the authors' release, counted",
        result="PASCAL VOC 2012 val: mIoU 80.5 at a single scale (authors' README)",
    ),
)
def refinenet_resnet101(num_classes: int, in_channels: int = 3, body: Body = Body("resnet101")) -> RefineNet:
    """Four-cascaded RefineNet on ResNet-101."""
    return RefineNet(body.build(in_channels), num_classes)


@register_model(
    "refinenet_resnet152",
    Card(
        PAPER,
        2017,
        parameters=133_696_085,
        gmac=282.29,
        source="own count",
        result="PASCAL VOC 2012 test: mIoU 83.4 (paper)",
    ),
)
def refinenet_resnet152(num_classes: int, in_channels: int = 3, body: Body = Body("resnet152")) -> RefineNet:
    """Four-cascaded RefineNet on ResNet-152, the paper's best."""
    return RefineNet(body.build(in_channels), num_classes)

"""Y-Net: Mehta et al.: Y-Net: Joint Segmentation and Classification for Diagnosis of Breast Biopsy Images, MICCAI 2018,
arXiv 1806.01313.

A U-shaped segmentation network with pyramid pooling in its decoder, and a second branch from its bottleneck that
classifies the whole image. Trained in two stages, segmentation first. Layers follow the authors' code, with two
differences: pyramid pooling takes its grids in proportion to the image, where that code has them for 384 x 384; and the
ESP blocks leave out a branch of dilation 16 that the code defines but never uses.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct, check_images, relu, resize
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Mehta et al.: Y-Net: Joint Segmentation and Classification for Diagnosis of Breast Biopsy Images. MICCAI 2018,"
    " arXiv 1806.01313"
)
POOL_SHARES = (
    (5, 6),
    (2, 3),
    (1, 2),
    (3, 8),
)  # of the map's height and width: 40, 32, 24 and 18 of 48, as in the authors' code
_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.95)  # as in the authors' code: the last batch counts most
_conv = partial(ConvNormAct, norm=_norm, activation=relu)


class YNet(Model):
    """Segmentation logits for images of any size, and ``extras["image_label"]`` (B, ``image_classes``) of the whole
    image.

    With ``image_classes`` 0 the network is that of the first training stage, without the second branch; its weights
    load into the joint one by ``load_state_dict(..., strict=False)``.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, image_classes: int = 5, block: str = "esp") -> None:
        super().__init__()
        if block not in _BLOCKS:
            raise InputError(
                f"block is {block!r}, expected 'esp' (spatial pyramid of dilated convolutions) or 'residual'"
            )
        if image_classes == 1 or image_classes < 0:
            raise InputError(
                f"image_classes is {image_classes}, expected at least 2 classes of images, or 0 for segmentation alone"
            )
        make = _BLOCKS[block]
        self.in_channels = in_channels
        self.level1 = _conv(in_channels, 16, 7, 2)
        self.level2 = _Level(16, 128, 2, make)
        self.level3 = _Level(256, 256, 5, make)
        self.decoder3 = nn.Sequential(
            _PyramidPooling(512, 128), _conv(1024, 128, 1), _conv(128, num_classes), _conv(num_classes, num_classes, 1)
        )
        self.decoder2 = nn.Sequential(
            _PyramidPooling(num_classes + 256, 64),
            _conv(num_classes + 512, num_classes),
            _conv(num_classes, num_classes, 1),
        )
        self.decoder1 = nn.Sequential(
            _PyramidPooling(num_classes + 16, num_classes),
            _conv(5 * num_classes + 16, num_classes),
            nn.Conv2d(num_classes, num_classes, 7, padding=3, bias=False),
        )
        self.classifier = (
            nn.Sequential(
                _Level(512, 128, 2, make),
                _Level(256, 64, 2, make),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(128, 64),
                nn.Linear(64, image_classes),
            )
            if image_classes
            else None
        )

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        half = self.level1(pad_to_multiple(images, 8))
        quarter = self.level2(half)
        bottleneck = self.level3(quarter)
        features = _double(self.decoder3(bottleneck))
        features = _double(self.decoder2(torch.cat([features, quarter], dim=1)))
        logits = _double(self.decoder1(torch.cat([half, features], dim=1)))
        image_logits = self.classifier(bottleneck) if self.classifier else None
        return PixelOutput(
            crop(logits, images.shape[2:]), extras={} if image_logits is None else {"image_label": image_logits}
        )

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.decoder1)


class _Level(nn.Module):
    """3x3 convolution with stride 2, blocks; both results joined, normalised: (B, in, H, W) -> (B, 2 out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, block: type[nn.Module]) -> None:
        super().__init__()
        self.down = _conv(in_channels, out_channels, stride=2)
        self.blocks = nn.Sequential(*(block(out_channels) for _ in range(depth)))
        self.norm = _norm(2 * out_channels)

    def forward(self, features: Tensor) -> Tensor:
        features = self.down(features)
        return torch.relu(self.norm(torch.cat([features, self.blocks(features)], dim=1)))


class _EfficientSpatialPyramid(nn.Module):
    """ESP: reduce to a quarter of the channels, dilated 3x3 convolutions side by side, sums over growing dilations
    joined, residual, normalised.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.reduce = nn.Conv2d(channels, quarter, 3, padding=1, bias=False)
        outputs = (channels - 3 * quarter, quarter, quarter, quarter)
        self.dilated = nn.ModuleList(
            nn.Conv2d(quarter, out, 3, padding=rate, dilation=rate, bias=False)
            for out, rate in zip(outputs, (1, 2, 4, 8), strict=True)
        )
        self.norm = _norm(channels)

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.reduce(features)
        first, second, third, fourth = (convolution(reduced) for convolution in self.dilated)
        third = second + third  # hierarchical sums remove the grid that dilation leaves (ESPNet)
        joined = torch.cat([first, second, third, third + fourth], dim=1)
        return torch.relu(self.norm(features + joined))


class _Residual(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = ConvNormAct(channels, channels, norm=_norm, activation=None)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.second(self.first(features)))


class _PyramidPooling(nn.Module):
    """The map, joined with its averages over four grids, each through a 1x1 convolution: (B, in, H, W) -> (B, in + 4
    out, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_conv(in_channels, out_channels, 1) for _ in POOL_SHARES)

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        pooled = [
            functional.adaptive_avg_pool2d(features, (-(-share * height // whole), -(-share * width // whole)))
            for share, whole in POOL_SHARES
        ]
        return torch.cat(
            [
                features,
                *(
                    resize(branch(average), (height, width))
                    for branch, average in zip(self.branches, pooled, strict=True)
                ),
            ],
            dim=1,
        )


_BLOCKS: dict[str, type[_EfficientSpatialPyramid] | type[_Residual]] = {
    "esp": _EfficientSpatialPyramid,
    "residual": _Residual,
}


def _double(features: Tensor) -> Tensor:
    return resize(features, [2 * side for side in features.shape[2:]])


@register_model(
    "ynet",
    Card(
        PAPER,
        2018,
        losses={"cross_entropy": 1.0, "image_label": 1.0},
        parameters=3_687_589,
        num_classes=8,
        size=(384, 384),
        gmac=8.24,
        source="own count; with the unused branches of the authors' code 3,913,381, counted on it",
        result="breast biopsies: mIoU 44.19 of 8 tissues, accuracy 62.5 % of 5 diagnoses (paper)",
    ),
)
def ynet(num_classes: int, in_channels: int = 3, image_classes: int = 5, block: str = "esp") -> YNet:
    """Y-Net with ESP blocks, or residual ones (``block="residual"``); ``image_classes`` diagnoses of the whole
    image.
    """
    return YNet(num_classes, in_channels, image_classes, block)

"""V-Net: Milletari, Navab, Ahmadi, 3DV 2016, arXiv 1606.04797.

A U-shaped network of residual stages with 5x5x5 convolutions and PReLU, strided convolutions in place of pooling, and
no normalisation. The popular PyTorch port (and MONAI's ``VNet`` after it) has other stages, batch normalisation and
ELU; the paper is followed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import check_images, check_spatial_dims, check_widths
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Milletari, Navab, Ahmadi: V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation."
    " 3DV 2016, arXiv 1606.04797"
)
WIDTHS = (16, 32, 64, 128, 256)


class VNet(Model):
    """V-Net for images (B, in, H, W) or volumes (B, in, D, H, W) of any size.

    Level n has n convolutions per stage, at most 3: 1-2-3-3-3 on the way down, 3-3-2-1 on the way up (figure 2).
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.spatial_dims = check_spatial_dims(spatial_dims)
        conv, transposed = (nn.Conv2d, nn.ConvTranspose2d) if spatial_dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.encoder = nn.ModuleList([_Stage(in_channels, widths[0], 1, conv)])
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level, (fine, coarse) in enumerate(pairwise(widths), start=1):
            self.downs.append(nn.Sequential(conv(fine, coarse, 2, stride=2), nn.PReLU(coarse)))
            self.encoder.append(_Stage(coarse, coarse, min(level + 1, 3), conv))
        deep = widths[-1]
        for level, width in reversed(list(enumerate(widths[:-1]))):
            self.ups.append(nn.Sequential(transposed(deep, width, 2, stride=2), nn.PReLU(width)))
            deep = 2 * width
            self.decoder.append(_Stage(deep, deep, min(level + 1, 3), conv))
        self.head = conv(deep, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.25)  # PReLU starts with the slope 0.25 (He 2015)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels, self.spatial_dims)
        skips = [self.encoder[0](pad_to_multiple(images, 2 ** len(self.downs)))]
        for down, stage in zip(self.downs, self.encoder[1:], strict=True):
            skips.append(stage(down(skips[-1])))
        features = skips.pop()
        for up, stage in zip(self.ups, self.decoder, strict=True):
            features = stage(torch.cat([up(features), skips.pop()], dim=1))
        return PixelOutput(crop(self.head(features), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]


class _Stage(nn.Module):
    """Convolutions of size 5 with PReLU; the stage's input is added before the last PReLU, its channels repeated where
    the stage has more.
    """

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, conv: type[nn.Conv2d] | type[nn.Conv3d]
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            conv(i, out_channels, 5, padding=2) for i in [in_channels] + [out_channels] * (depth - 1)
        )
        self.activations = nn.ModuleList(nn.PReLU(out_channels) for _ in range(depth))
        self.repeats = -(-out_channels // in_channels) if in_channels != out_channels else 0

    def forward(self, features: Tensor) -> Tensor:
        residual = features
        for convolution, activation in zip(self.convs[:-1], self.activations[:-1], strict=True):
            features = activation(convolution(features))
        features = self.convs[-1](features)
        if self.repeats:
            residual = torch.cat([residual] * self.repeats, dim=1)[:, : features.shape[1]]
        return self.activations[-1](features + residual)


@register_model(
    "vnet",
    Card(
        PAPER,
        2016,
        parameters=13_276_773,
        gmac=80.82,
        source="own count of the 2-D form",
        result="PROMISE12 prostate Dice 0.869 (paper), volumes",
        losses={"dice": {"squared": True}},
        optimizer="sgd",
        lr=1e-4,
        batch_size=2,
    ),
)
def vnet(num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, spatial_dims: int = 2) -> VNet:
    """V-Net; ``spatial_dims`` 3 is the paper's form for volumes, 2 the same network for images."""
    return VNet(num_classes, in_channels, widths, spatial_dims)

"""M-Net: Mehta, Sivaswamy: M-net: A Convolutional Neural Network for deep brain structure segmentation, ISBI 2017.

A U-Net with two more legs. Left: the first map, max-pooled step by step, joins the encoder at every scale. Right: the
decoder's maps of all scales, enlarged to full size, join the last 1x1 convolution. The first map comes from a
7x7x(2n+1) convolution over a stack of 2n+1 slices; with the slices as input channels that is a 7x7 convolution, so that
``in_channels`` is the number of slices (3 of a colour image).

The paper's numbers of filters and its dropout rate are not public; the widths of U-Net are the default here, with batch
normalisation and without dropout. Other networks of the same name (MNet_DeepCDR, IJCAI 2022) are other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, UpBlock, check_images, check_widths, double_conv, relu, resize
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Mehta, Sivaswamy: M-net: A Convolutional Neural Network for deep brain structure segmentation. ISBI 2017"
WIDTHS = (64, 128, 256, 512, 1024)


class MNet(Model):
    """M-Net for images, or stacks of slices as channels, of any size."""

    def __init__(self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.converter = ConvNormAct(in_channels, widths[0], 7, activation=relu)
        self.encoder = nn.ModuleList([double_conv(widths[0], widths[0])])
        self.encoder.extend(double_conv(i + widths[0], o) for i, o in pairwise(widths))
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(UpBlock(i, o) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True))
        # The last 1x1 convolution, cut into the parts that see one scale each, coarsest first: it commutes with
        # enlarging, and is cheap before it.
        self.heads = nn.ModuleList(
            nn.Conv2d(width, num_classes, 1, bias=level == 0) for level, width in reversed(list(enumerate(widths[:-1])))
        )

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        left = self.converter(pad_to_multiple(images, 2 ** len(self.decoder)))
        size = left.shape[2:]
        skips = [self.encoder[0](left)]
        for stage in self.encoder[1:]:
            left = self.pool(left)
            skips.append(stage(torch.cat([self.pool(skips[-1]), left], dim=1)))
        features = skips.pop()
        parts = []
        for block, head in zip(self.decoder, self.heads, strict=True):
            features = block(features, skips.pop())
            parts.append(resize(head(features), size))
        return PixelOutput(crop(sum(parts[1:], parts[0]), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return list(self.heads)


@register_model("mnet", Card(PAPER, 2017, parameters=32_208_341, gmac=214.05, source="own count; the paper gives none"))
def mnet(num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS) -> MNet:
    """M-Net; ``in_channels`` is the number of neighbouring slices, or of colours."""
    return MNet(num_classes, in_channels, widths)

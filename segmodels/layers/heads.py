"""Heads: from an encoder's map to the classes, and the layers before that."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct


class FCNHead(nn.Sequential):
    """3x3 convolution, batch norm, ReLU, dropout, 1x1 to the classes: torchvision's head and its keys.

    Args:
        channels: of the first convolution; None: a quarter of ``in_channels``.
        dropout: leaves out whole channels, as mmsegmentation does, or single elements (``nn.Dropout``), as torchvision
            does.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dropout: type[nn.Dropout | nn.Dropout2d] = nn.Dropout2d,
        channels: int | None = None,
    ) -> None:
        channels = in_channels // 4 if channels is None else channels
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            dropout(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )


class ConcatFeatures(nn.Module):
    """Two 3x3 convolutions to ``channels``, and a third on their result concatenated with the input."""

    def __init__(self, in_channels: int, channels: int = 512) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(in_channels, channels), ConvNormAct(channels, channels))
        self.conv_cat = ConvNormAct(in_channels + channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_cat(torch.cat([x, self.convs(x)], dim=1))

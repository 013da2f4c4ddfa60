"""W-Net: Xia, Kulis: W-Net: A Deep Model for Fully Unsupervised Image Segmentation, arXiv 1711.08506.

A U-Net that divides an image into K soft segments, and a second one that rebuilds the image from them. Trained without
labels: a soft normalised cut on the segments (first network only) and the error of the rebuilt image (both networks),
in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import check_dropped, check_images, check_widths
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Xia, Kulis: W-Net: A Deep Model for Fully Unsupervised Image Segmentation. arXiv 1711.08506, 2017"
WIDTHS = (64, 128, 256, 512, 1024)


class WNet(Model):
    """Two U-shaped networks of nine modules each (figure 1), for images of any size.

    ``forward`` gives the logits of the K = ``num_classes`` segments and, in training mode, the ``reconstruction`` of
    the images from their softmax.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, dropout: float = 0.65
    ) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.multiple = 2 ** (len(widths) - 1)
        self.encoder = _SeparableUNet(in_channels, num_classes, widths, dropout)
        self.decoder = _SeparableUNet(num_classes, in_channels, widths, dropout)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        logits, padded = self._segment(images)
        reconstruction = crop(self.decoder(padded.softmax(dim=1)), images.shape[2:]) if self.training else None
        return PixelOutput(logits, extras={} if reconstruction is None else {"reconstruction": reconstruction})

    def classifiers(self) -> list[nn.Module]:
        return [self.encoder.head]

    def reconstruct(self, images: Tensor) -> Tensor:
        """The images (B, in, H, W), rebuilt from their soft segments."""
        _, padded = self._segment(images)
        return crop(self.decoder(padded.softmax(dim=1)), images.shape[2:])

    @torch.no_grad()
    def reorder_segments(self, order: Sequence[int]) -> None:
        """Make segment ``order[k]`` the segment k; the reconstruction stays what it was."""
        weights = self.state_dict()  # views
        for name, axis in (("encoder.head.weight", 0), ("encoder.head.bias", 0), ("decoder.contracting.0.0.weight", 1)):
            weights[name].copy_(weights[name].index_select(axis, torch.as_tensor(order, device=weights[name].device)))

    def _segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        check_images(images, self.in_channels)
        padded = self.encoder(pad_to_multiple(images, self.multiple))
        return crop(padded, images.shape[2:]), padded


class _SeparableUNet(nn.Module):
    """U-Net whose modules but the first and the last are depthwise separable; dropout at the end of the contracting
    path, as in U-Net.
    """

    def __init__(self, in_channels: int, out_channels: int, widths: list[int], dropout: float) -> None:
        super().__init__()
        self.contracting = nn.ModuleList(
            _module(i, o, separable=level > 0)
            for level, (i, o) in enumerate(zip([in_channels, *widths], widths, strict=False))
        )
        self.pool = nn.MaxPool2d(2)
        check_dropped("dropout", dropout, "values that are set to 0")
        self.dropout = nn.Dropout(dropout)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.expansive = nn.ModuleList(
            _module(2 * width, width, separable=level > 0) for level, width in reversed(list(enumerate(widths[:-1])))
        )
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips = [self.contracting[0](images)]
        for module in self.contracting[1:]:
            skips.append(module(self.pool(skips[-1])))
        features = self.dropout(skips.pop())
        for up, module in zip(self.ups, self.expansive, strict=True):
            features = module(torch.cat([skips.pop(), up(features)], dim=1))
        return self.head(features)


def _module(in_channels: int, out_channels: int, separable: bool) -> nn.Sequential:
    """Twice: 3x3 convolution (separable: 3x3 per channel, then 1x1, nothing between), ReLU, batch normalisation."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        if separable:
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
                nn.Conv2d(channels, out_channels, 1),
            ]
        else:
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1)]
        layers += [nn.ReLU(inplace=True), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers)


@register_model(
    "wnet",
    Card(
        PAPER,
        2017,
        losses={"soft_normalized_cut": 1.0, "reconstruction": 1.0},
        learner="alternating",
        parameters=12_299_331,
        num_classes=64,
        size=(224, 224),
        gmac=12.53,
        source="own count; the paper gives none",
        optimizer="sgd",
        lr=0.003,
        batch_size=10,
    ),
)
def wnet(num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, dropout: float = 0.65) -> WNet:
    """W-Net with ``num_classes`` soft segments; ``dropout`` as in the paper's first training phase."""
    return WNet(num_classes, in_channels, widths, dropout)

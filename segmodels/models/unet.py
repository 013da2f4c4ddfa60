"""U-Net: Ronneberger, Fischer, Brox, MICCAI 2015, arXiv 1505.04597.

``unet`` is the form in common use: padded convolutions with batch normalisation, output as large as the input, any
input size.
``unet_original`` is the paper's: valid convolutions without normalisation (572 -> 388), images mirrored beyond their
border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.blocks import UpBlock, check_dropped, check_images, check_widths, double_conv
from segmodels.layers.padding import crop, mirror_index, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.encoder_unet import EncoderUNet, unet_resnet34
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015, arXiv"
    " 1505.04597"
)
WIDTHS = (64, 128, 256, 512, 1024)


class UNet(Model):
    """U-Net with padded convolutions and batch normalisation. Any height and width: padded to a multiple of 16 (for
    five levels), cropped again.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.encoder = nn.ModuleList(self.stage(i, o) for i, o in zip([in_channels, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(self.up_stage(i, o) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def stage(self, in_channels: int, out_channels: int) -> nn.Module:
        """A level of the encoder, ``(B, in, H, W)`` to ``(B, out, H, W)``."""
        return double_conv(in_channels, out_channels)

    def up_stage(self, in_channels: int, out_channels: int) -> nn.Module:
        """A level of the decoder: (coarser map, the encoder's map) to a map of ``out_channels``."""
        return UpBlock(in_channels, out_channels)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        skips = [self.encoder[0](pad_to_multiple(images, 2 ** len(self.decoder)))]
        for stage in self.encoder[1:]:
            skips.append(stage(self.pool(skips[-1])))
        features = skips.pop()
        for block in self.decoder:
            features = block(features, skips.pop())
        return PixelOutput(crop(self.head(features), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]


class UNetOriginal(Model):
    """The paper's U-Net: valid convolutions, no normalisation, dropout at the two deepest encoder levels (there in the
    authors' Caffe release).

    That release also puts a ReLU after each up-convolution; the paper's text and figure do not, and are followed.

    ``forward`` mirrors the images beyond their border (the paper's overlap-tile strategy, figure 2) so that logits have
    the images' size, for any size; ``forward_valid`` is the bare network.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, dropout: float = 0.5
    ) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.encoder = nn.ModuleList(_valid_convs(i, o) for i, o in zip([in_channels, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        check_dropped("dropout", dropout, "values that are set to 0")
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(_ValidUpBlock(i, o) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        self.multiple = 2 ** (len(widths) - 1)
        self.margin = (
            6 * self.multiple - 4
        )  # pixels lost on each side: 4 per level and way, counted at the finest level; 92 for five levels
        for module in self.modules():
            if isinstance(
                module, nn.Conv2d | nn.ConvTranspose2d
            ):  # standard deviation sqrt(2 / incoming nodes), section 3 of the paper
                incoming = module.in_channels * (
                    1 if module.stride == module.kernel_size else module.kernel_size[0] * module.kernel_size[1]
                )
                nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        rows, columns = (
            mirror_index(size, self.margin, self.margin + (4 - size) % self.multiple, images.device)
            for size in images.shape[2:]
        )
        logits = self._network(images.index_select(-2, rows).index_select(-1, columns))
        return PixelOutput(crop(logits, images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]

    def forward_valid(self, images: Tensor) -> Tensor:
        """Logits (B, C, H - 184, W - 184) of the centre of images (B, in, H, W); for other than five levels the border
        is ``2 * margin``.

        Raises:
            InputError: H or W is not a multiple of 16 less 4, or below 188: pooling would drop a row.
        """
        for name, size in (("height", images.shape[-2]), ("width", images.shape[-1])):
            if (size + 4) % self.multiple or size <= 2 * self.margin:
                nearest = max(size + (-4 - size) % self.multiple, 2 * self.margin + 4)
                raise InputError(
                    f"image {name} is {size}, expected a multiple of {self.multiple} less 4 above {2 * self.margin}:"
                    f" pad to {nearest}"
                )
        return self._network(images)

    def _network(self, images: Tensor) -> Tensor:
        skips = [self.encoder[0](images)]
        for level, stage in enumerate(self.encoder[1:], start=1):
            features = stage(self.pool(skips[-1]))
            skips.append(self.dropout(features) if level >= len(self.encoder) - 2 else features)
        features = skips.pop()
        for block in self.decoder:
            features = block(features, skips.pop())
        return self.head(features)


def _valid_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3),
        nn.ReLU(inplace=True),
    )


class _ValidUpBlock(nn.Module):
    """2x2 up-convolution, concatenation with the centre of the encoder's map, convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convs = _valid_convs(2 * out_channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        up = self.up(deep)
        top, left = ((s - u) // 2 for s, u in zip(skip.shape[-2:], up.shape[-2:], strict=True))
        centre = skip[..., top : top + up.shape[-2], left : left + up.shape[-1]]
        return self.convs(torch.cat([centre, up], dim=1))


@register_model("unet", Card(PAPER, 2015, parameters=31_038_933, gmac=193.01, source="own count"))
def unet(
    num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, body: Body | None = None
) -> UNet | EncoderUNet:
    """U-Net, padded with batch normalisation; ``widths`` are the channels per level, finest first, their number sets
    the depth.

    ``encoder: NAME`` puts that encoder in the place of the contracting path: ``unet_resnet34`` on it.
    """
    if body is None:
        return UNet(num_classes, in_channels, widths)
    if tuple(widths) != WIDTHS:
        raise InputError(
            f"widths of unet is {list(widths)}, but encoder {body.encoder!r} has its own: leave out widths, or take"
            " model unet_resnet34 with this encoder and decoder_widths"
        )
    return unet_resnet34(num_classes, in_channels, body)


@register_model(
    "unet_original",
    Card(
        PAPER,
        2015,
        parameters=31_033_045,
        gmac=247.52,
        source="own count",
        result="ISBI cell tracking 2015: IoU 0.9203 (PhC-U373), 0.7756 (DIC-HeLa), paper table 2",
        optimizer="sgd",
        batch_size=1,
    ),
)
def unet_original(
    num_classes: int, in_channels: int = 3, widths: Sequence[int] = WIDTHS, dropout: float = 0.5
) -> UNetOriginal:
    """U-Net as published: valid convolutions, no normalisation; images are mirrored beyond their border to keep their
    size.
    """
    return UNetOriginal(num_classes, in_channels, widths, dropout)

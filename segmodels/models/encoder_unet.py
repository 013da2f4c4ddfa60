"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015, arXiv 1505.04597) and UNet++ (Zhou et al., DLMIA 2018, arXiv
1807.10165) with a pretrained network in the place of the contracting path, in the form that segmentation_models.pytorch
(Iakubovskii 2019) made popular.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.blocks import UpConcat
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

DECODER_WIDTHS = (256, 128, 64, 32, 16)
"""Channels of the decoder, from coarse to fine."""


class EncoderUNet(Model):
    """U-Net on any encoder. From the coarsest map upwards: doubled, concatenated with the encoder's map at that stride
    where it has one, two 3x3 convolutions with batch normalisation; the last step comes to the image's size. Any input
    size: padded to a multiple of the encoder's largest stride, cropped again.

    Args:
        widths: channels of the steps, from coarse to fine; one for each doubling from the largest stride.
    """

    def __init__(self, encoder: Encoder, num_classes: int, widths: Sequence[int] = DECODER_WIDTHS) -> None:
        super().__init__()
        self.encoder = encoder
        self.places = skip_places(encoder)
        widths = decoder_widths(encoder, widths)
        skips = [0 if place is None else encoder.channels[place] for place in self.places]
        self.decoder = nn.ModuleList(
            UpConcat(*channels) for channels in zip((encoder.channels[-1], *widths), skips, widths, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], num_classes, 3, padding=1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder(pad_to_multiple(images, self.encoder.strides[-1]))
        x = maps[-1]
        for block, place in zip(self.decoder, self.places, strict=True):
            x = block(x) if place is None else block(x, maps[place])
        return PixelOutput(crop(self.head(x), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]


class EncoderUNetPlusPlus(Model):
    """UNet++ on any encoder: its maps are X^{i,0}, where level i has stride 2^i. Nodes inside have the channels of the
    encoder's map at their level, the last node of each level ``widths``; level 0, the image's size, has one node and
    the head. Fine levels that the encoder has no map for have their last node alone. Any input size, as
    ``EncoderUNet``.
    """

    def __init__(self, encoder: Encoder, num_classes: int, widths: Sequence[int] = DECODER_WIDTHS) -> None:
        super().__init__()
        self.encoder = encoder
        self.places = skip_places(encoder)[::-1]  # by level, from the finest
        widths = decoder_widths(encoder, widths)[::-1]
        self.deepest = len(self.places)
        own = [0 if place is None else encoder.channels[place] for place in (*self.places, -1)]
        self.nodes = nn.ModuleDict()
        for i, j in self._order():
            last = i + j == self.deepest
            below = widths[i + 1] if last and j > 1 else own[i + 1]
            self.nodes[f"{i}_{j}"] = UpConcat(below, j * own[i], widths[i] if last else own[i])
        self.head = nn.Conv2d(widths[0], num_classes, 3, padding=1)

    def _order(self) -> list[tuple[int, int]]:
        """(i, j) of all nodes but the encoder's, such that what feeds a node comes before it."""
        diagonals = range(1, self.deepest + 1)
        nodes = [(diagonal - j, j) for diagonal in diagonals for j in range(1, diagonal + 1)]
        return [(i, j) for i, j in nodes if i + j == self.deepest or self.places[i] is not None]

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder(pad_to_multiple(images, self.encoder.strides[-1]))
        found = {(i, 0): maps[place] for i, place in enumerate(self.places) if place is not None}
        found[self.deepest, 0] = maps[-1]
        for i, j in self._order():
            skips = [found[i, k] for k in range(j) if (i, k) in found]
            found[i, j] = self.nodes[f"{i}_{j}"](found[i + 1, j - 1], *skips)
        return PixelOutput(crop(self.head(found[0, self.deepest]), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]


def skip_places(encoder: Encoder) -> list[int | None]:
    """The encoder's maps at half its largest stride, a quarter of it, ..., 1; None where it has none.

    Raises:
        InputError: a largest stride that is not a power of 2.
    """
    stride = encoder.strides[-1]
    if stride & (stride - 1):
        raise InputError(
            f"{type(encoder).__name__} has maps up to stride {stride}, expected a power of 2, which a U-Net halves step"
            " by step: choose another encoder"
        )
    halved = [stride >> step for step in range(1, stride.bit_length())]
    return [encoder.place(stride) if stride in encoder.strides else None for stride in halved]


def decoder_widths(encoder: Encoder, widths: Sequence[int]) -> list[int]:
    """The channels of a decoder's steps on this encoder, from coarse to fine: the last ones of ``widths``.

    Raises:
        InputError: fewer widths than steps, or one below 1.
    """
    steps = encoder.strides[-1].bit_length() - 1
    if len(widths) < steps or min(widths) < 1:
        raise InputError(
            f"decoder_widths is {list(widths)}, expected at least {steps} positive numbers of channels, coarsest step"
            f" first: one for each doubling from stride {encoder.strides[-1]}"
        )
    return list(widths)[-steps:]


@register_model(
    "unet_resnet34",
    Card(
        "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015,"
        " arXiv 1505.04597",
        2015,
        parameters=24_439_269,
        gmac=32.01,
        source="segmentation_models.pytorch 0.6 Unet: 24,436,369 at 1 class; gmac: own count",
    ),
)
def unet_resnet34(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet34"),
    decoder_widths: Sequence[int] = DECODER_WIDTHS,
) -> EncoderUNet:
    """U-Net on ResNet-34 or any other encoder, in the form of segmentation_models.pytorch: nearest doubling, batch
    normalisation; ``decoder_widths`` are the channels of the steps, coarsest first.
    """
    return EncoderUNet(body.build(in_channels), num_classes, decoder_widths)


@register_model(
    "unet_plus_plus_resnet34",
    Card(
        "Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for Medical Image Segmentation. DLMIA"
        " 2018, arXiv 1807.10165",
        2018,
        parameters=26_081_509,
        gmac=74.29,
        source="segmentation_models.pytorch 0.6 UnetPlusPlus: 26,078,609 at 1 class; gmac: own count",
    ),
)
def unet_plus_plus_resnet34(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet34"),
    decoder_widths: Sequence[int] = DECODER_WIDTHS,
) -> EncoderUNetPlusPlus:
    """UNet++ on ResNet-34 or any other encoder, in the form of segmentation_models.pytorch: nearest doubling, batch
    normalisation, one head; ``decoder_widths`` are the channels of each level's last node, coarsest first.
    """
    return EncoderUNetPlusPlus(body.build(in_channels), num_classes, decoder_widths)

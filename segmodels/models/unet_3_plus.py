"""UNet 3+: Huang et al., ICASSP 2020, arXiv 2004.08790.

Every decoder level takes every scale: max-pooled maps of the finer encoder levels, the encoder's map of its own level,
and enlarged maps of the deeper decoder levels, each brought to as many channels as the finest level has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, check_images, check_widths, relu, resize
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Huang et al.: UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation. ICASSP 2020, arXiv 2004.08790"
)
WIDTHS = (64, 128, 256, 512, 1024)


class UNet3Plus(Model):
    """UNet 3+ for images of any size; convolutions have a bias in front of the batch normalisation, as in the authors'
    code.

    In training ``auxiliary`` holds the logits of the other decoder levels and of the bottom, finest first (deep
    supervision, section 2.2).

    With the classification-guided module (section 2.4) ``extras["object_presence"]`` (B, 2) say whether an image holds
    no object (no class but 0), or one; trained by the loss ``object_presence``. In evaluation an image that holds none
    by that score is background everywhere. The paper gates in training too; here not: the gate has no gradient, it
    would only keep the pixels of an image from their loss.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        auxiliary: bool = True,
        classification_guided: bool = False,
    ) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.in_channels = in_channels
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(i, o), _conv(o, o)) for i, o in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(_FullScaleLevel(level, widths) for level in reversed(range(len(widths) - 1)))
        fused = widths[0] * len(widths)
        self.head = nn.Conv2d(fused, num_classes, 3, padding=1)
        auxiliary_channels = [fused] * (len(widths) - 2) + [widths[-1]] if auxiliary else []
        self.auxiliary_heads = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=1) for channels in auxiliary_channels
        )
        self.classifier = (
            nn.Sequential(nn.Dropout(0.5), nn.Conv2d(widths[-1], 2, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten())
            if classification_guided
            else None
        )

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        encoded = [self.encoder[0](pad_to_multiple(images, 2 ** len(self.decoder)))]
        for stage in self.encoder[1:]:
            encoded.append(stage(self.pool(encoded[-1])))
        decoded = [encoded[-1]]  # finest first
        for level in self.decoder:
            decoded.insert(0, level(encoded[: -len(decoded)], decoded))
        size = images.shape[2:]
        logits = crop(self.head(decoded[0]), size)
        image_logits = self.classifier(encoded[-1]) if self.classifier else None
        if not self.training:
            return PixelOutput(
                logits if image_logits is None else background_where_empty(logits, image_logits),
                extras={} if image_logits is None else {"object_presence": image_logits},
            )
        padded = decoded[0].shape[2:]
        auxiliary = tuple(
            crop(resize(head(maps), padded), size)
            for head, maps in zip(self.auxiliary_heads, decoded[1:], strict=bool(self.auxiliary_heads))
        )
        return PixelOutput(logits, auxiliary, {} if image_logits is None else {"object_presence": image_logits})

    def classifiers(self) -> list[nn.Module]:
        return [self.head, *self.auxiliary_heads]


def background_where_empty(logits: Tensor, image_logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) with the classes above 0 ruled out in images whose class, by ``image_logits`` (B, 2), is "no
    object".
    """
    empty = image_logits.argmax(dim=1) == 0
    penalty = torch.zeros_like(logits[:, :, :1, :1])
    penalty[:, 1:] = -1e4  # probability 0 in every floating-point format, and finite in all
    return torch.where(empty[:, None, None, None], logits + penalty, logits)


class _FullScaleLevel(nn.Module):
    """Decoder level ``level`` (0 is the finest): one 3x3 convolution per scale on the resampled map, concatenation
    finest first, 3x3 convolution.
    """

    def __init__(self, level: int, widths: list[int]) -> None:
        super().__init__()
        depth = len(widths)
        fused = widths[0] * depth
        sources = [*widths[: level + 1], *[fused] * (depth - level - 2), widths[-1]]
        self.pools = nn.ModuleList(nn.MaxPool2d(2 ** (level - finer)) for finer in range(level))
        self.branches = nn.ModuleList(_conv(channels, widths[0]) for channels in sources)
        self.fuse = _conv(fused, fused)

    def forward(self, encoded: list[Tensor], deeper: list[Tensor]) -> Tensor:
        """``encoded``: encoder maps down to this level; ``deeper``: decoder maps below it, the last is the encoder's
        bottom. All finest first.
        """
        *finer, same = encoded
        maps = [
            *(pool(features) for pool, features in zip(self.pools, finer, strict=True)),
            same,
            *(resize(features, same.shape[2:]) for features in deeper),
        ]
        return self.fuse(
            torch.cat([branch(features) for branch, features in zip(self.branches, maps, strict=True)], dim=1)
        )


def _conv(in_channels: int, out_channels: int) -> ConvNormAct:
    return ConvNormAct(in_channels, out_channels, bias=True, activation=relu)


@register_model(
    "unet_3_plus",
    Card(
        PAPER,
        2020,
        parameters=27_404_457,
        gmac=805.71,
        source="own count; the binary forms have the 26,971,777 and more of the authors' code",
        result="LiTS liver Dice 0.9675 (ResNet-101 body and classification-guided module, paper)",
        auxiliary_weights=(1.0,),
        losses={"focal": 1.0, "iou": 1.0, "object_presence": 1.0},
    ),
)
def unet_3_plus(
    num_classes: int,
    in_channels: int = 3,
    widths: Sequence[int] = WIDTHS,
    auxiliary: bool = True,
    classification_guided: bool = False,
) -> UNet3Plus:
    """UNet 3+; ``classification_guided`` adds the module that empties images it holds for object-free.

    The paper's loss has a third term, ``ms_ssim``, which needs images of 176 pixels: add it to the card's by naming all
    three.
    """
    return UNet3Plus(num_classes, in_channels, widths, auxiliary, classification_guided)

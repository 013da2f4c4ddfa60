"""DeepLab v3+ (Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV
2018, arXiv 1802.02611).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import create_encoder
from segmodels.layers.aspp import ASPP, conv, rates_at, separable_conv
from segmodels.layers.blocks import resize
from segmodels.models.dilated import FCNHead, create_body
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018, arXiv"
    " 1802.02611"
)


class DeepLabV3Plus(nn.Module):
    """ASPP, enlarged to stride 4, beside 48 channels of the encoder's map there, two separable convolutions, classes
    (section 3.1). Any input size.

    Args:
        aspp: on the encoder's last map.
        aux_classifier: on the map before the last, training mode only.
        dropout: before the classes.
    """

    def __init__(
        self,
        encoder: Encoder,
        aspp: ASPP,
        num_classes: int,
        aux_classifier: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.fine = encoder.strides.index(4)
        self.aspp = aspp
        self.reduce = conv(encoder.channels[self.fine], 48, 1)
        self.decoder = nn.Sequential(
            separable_conv(aspp.channels + 48, aspp.channels, 3), separable_conv(aspp.channels, aspp.channels, 3)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(aspp.channels, num_classes, 1)
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor) -> PixelOutput:
        maps = self.encoder(images)
        fine = self.reduce(maps[self.fine])
        x = self.decoder(torch.cat([resize(self.aspp(maps[-1]), fine.shape[-2:]), fine], dim=1))
        logits = resize(self.conv_seg(self.dropout(x)), images.shape[-2:])
        if not self.training or self.aux_classifier is None:
            return PixelOutput(logits)
        return PixelOutput(logits, (resize(self.aux_classifier(maps[-2]), images.shape[-2:]),))


def _register_paper(body_name: str, parameters: int, gmac: float, result: str) -> None:
    """The paper's form: output stride 16, 256 channels, no auxiliary head."""
    card = Card(
        PAPER, 2018, default_encoder=body_name, parameters=parameters, gmac=gmac, source="own count", result=result
    )

    @register_model(f"deeplab_v3_plus_{body_name}", card)
    def build(
        num_classes: int,
        in_channels: int = 3,
        encoder: str = body_name,
        encoder_weights: str | None = None,
        encoder_options: dict[str, Any] | None = None,
        output_stride: int = 16,
    ) -> nn.Module:
        body = create_encoder(encoder, in_channels, output_stride, encoder_weights, **(encoder_options or {}))
        aspp = ASPP(body.channels[-1], 256, rates_at(output_stride), separable=True, dropout=0.1)
        return DeepLabV3Plus(body, aspp, num_classes)


def _register_mmseg(name: str, body_name: str, num_classes: int, parameters: int, gmac: float, result: str) -> None:
    """mmseg's form: a deep stem, output stride 8, ASPP of 512 channels with the pooled image first and a 3x3
    projection; auxiliary weight 0.4.
    """
    source = f"specification [M]: mmseg {name.replace('_v3_plus', 'v3plus').replace('_d8', '-d8')}"
    card = Card(
        PAPER,
        2018,
        default_encoder=body_name,
        parameters=parameters,
        num_classes=num_classes,
        gmac=gmac,
        source=source,
        result=result,
    )

    @register_model(name, card)
    def build(
        num_classes: int,
        in_channels: int = 3,
        encoder: str = body_name,
        encoder_weights: str | None = None,
        encoder_options: dict[str, Any] | None = None,
        auxiliary: bool = True,
    ) -> nn.Module:
        body = create_body(encoder, in_channels, 8, encoder_weights, encoder_options)
        aspp = ASPP(body.channels[-1], 512, rates_at(8), separable=True, pooling_first=True, projection=3, dropout=0.0)
        return DeepLabV3Plus(
            body, aspp, num_classes, FCNHead(body.channels[-2], num_classes) if auxiliary else None, dropout=0.1
        )


_register_paper("xception65", 41_049_269, 51.18, "PASCAL VOC 2012 test: mIoU 87.8; Cityscapes test: 82.1 (paper)")
_register_paper("resnet50", 26_696_133, 37.69, "")
_register_paper("resnet101", 45_688_261, 57.08, "PASCAL VOC 2012 val: mIoU 78.85 (paper, table 3)")
_register_mmseg(
    "deeplab_v3_plus_r50_d8", "resnet50", 19, 43_589_878, 176.16, "Cityscapes val: mIoU 80.09 (mmseg, 80k iterations)"
)
_register_mmseg("deeplab_v3_plus_r101_d8", "resnet101", 21, 62_583_546, 253.75, "")

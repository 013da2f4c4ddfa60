"""DeepLab v3+ (Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV
2018, arXiv 1802.02611).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body, grid_option
from segmodels.layers.aspp import ASPP, conv, rates_at, separable_conv
from segmodels.layers.blocks import resize
from segmodels.layers.heads import FCNHead
from segmodels.layers.names import ASPP as ASPP_NAMES
from segmodels.layers.names import Names
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018, arXiv"
    " 1802.02611"
)


class DeepLabV3Plus(Model):
    """ASPP, enlarged to stride 4, beside 48 channels of the encoder's map there, two separable convolutions, classes
    (section 3.1). Any input size.

    Args:
        aspp: on the encoder's last map.
        aux_classifier: on the map before the last, training mode only.
        dropout: before the classes.
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.conv_seg\.", "conv_seg."),
        (r"^decode_head\.c1_bottleneck\.conv\.", "reduce.0."),
        (r"^decode_head\.c1_bottleneck\.norm\.", "reduce.1."),
        (r"^decode_head\.sep_bottleneck\.", "decoder."),
        (r"^decode_head\.", ""),
        *ASPP_NAMES,
        (r"^(convs|project)\.", r"aspp.\1."),
    )

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
        self.fine = encoder.place(4)
        self.aspp = aspp
        self.reduce = conv(encoder.channels[self.fine], 48, 1)
        self.decoder = nn.Sequential(
            separable_conv(aspp.channels + 48, aspp.channels, 3), separable_conv(aspp.channels, aspp.channels, 3)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(aspp.channels, num_classes, 1)
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder(images)
        fine = self.reduce(maps[self.fine])
        x = self.decoder(torch.cat([resize(self.aspp(maps[-1]), fine.shape[-2:]), fine], dim=1))
        logits = resize(self.conv_seg(self.dropout(x)), images.shape[-2:])
        if not self.training or self.aux_classifier is None:
            return PixelOutput(logits)
        return PixelOutput(logits, (resize(self.aux_classifier(maps[-2]), images.shape[-2:]),))

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.conv_seg, self.aux_classifier)


RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.007, "schedule": "polynomial", "batch_size": 16}  # section 4


@register_model(
    "deeplab_v3_plus_xception65",
    Card(
        PAPER,
        2018,
        parameters=41_055_413,
        gmac=51.28,
        source="own count",
        result="PASCAL VOC 2012 test: mIoU 87.8; Cityscapes test: 82.1 (paper)",
        **RECIPE,
    ),
)
def deeplab_v3_plus_xception65(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("xception65"),
    output_stride: int = 16,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """The paper's form on aligned Xception-65: output stride 16, 256 channels, no auxiliary head.

    ``rates`` are the dilations of ASPP; None: 6, 12, 18 at output stride 16, and twice as much at 8. ``multi_grid`` are
    factors on the dilation of the blocks of layer 4 of a ResNet.
    """
    encoder = body.build(in_channels, output_stride, **grid_option(multi_grid))
    aspp = ASPP(encoder.channels[-1], 256, rates or rates_at(output_stride), separable=True, dropout=0.1)
    return DeepLabV3Plus(encoder, aspp, num_classes)


@register_model(
    "deeplab_v3_plus_resnet50", Card(PAPER, 2018, parameters=26_696_133, gmac=37.69, source="own count", **RECIPE)
)
def deeplab_v3_plus_resnet50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    output_stride: int = 16,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """The paper's form on ResNet-50."""
    return deeplab_v3_plus_xception65(num_classes, in_channels, body, output_stride, rates, multi_grid)


@register_model(
    "deeplab_v3_plus_resnet101",
    Card(
        PAPER,
        2018,
        parameters=45_688_261,
        gmac=57.08,
        source="own count",
        result="PASCAL VOC 2012 val: mIoU 78.85 (paper, table 3)",
        **RECIPE,
    ),
)
def deeplab_v3_plus_resnet101(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101"),
    output_stride: int = 16,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """The paper's form on ResNet-101."""
    return deeplab_v3_plus_xception65(num_classes, in_channels, body, output_stride, rates, multi_grid)


@register_model(
    "deeplab_v3_plus_r50_d8",
    Card(
        PAPER,
        2018,
        parameters=43_589_878,
        num_classes=19,
        gmac=176.16,
        source="mmsegmentation 1.2.2 deeplabv3plus_r50-d8, counted",
        result="Cityscapes val: mIoU 80.09 (mmsegmentation, 80k iterations)",
        **RECIPE,
    ),
)
def deeplab_v3_plus_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """mmseg's form: a deep stem, output stride 8, ASPP of 512 channels with the pooled image first and a 3x3
    projection; auxiliary weight 0.4.
    """
    encoder = body.build(in_channels, output_stride, **grid_option(multi_grid))
    rates = rates or rates_at(output_stride)
    aspp = ASPP(encoder.channels[-1], 512, rates, separable=True, pooling_first=True, projection=3, dropout=0.0)
    aux_classifier = FCNHead(encoder.channels[-2], num_classes) if auxiliary else None
    return DeepLabV3Plus(encoder, aspp, num_classes, aux_classifier, dropout=0.1)


@register_model(
    "deeplab_v3_plus_r101_d8",
    Card(
        PAPER,
        2018,
        parameters=62_583_546,
        gmac=253.75,
        source="mmsegmentation 1.2.2 deeplabv3plus_r101-d8, counted",
        **RECIPE,
    ),
)
def deeplab_v3_plus_r101_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """``deeplab_v3_plus_r50_d8`` on the deeper ResNet-101."""
    return deeplab_v3_plus_r50_d8(num_classes, in_channels, body, output_stride, auxiliary, rates, multi_grid)

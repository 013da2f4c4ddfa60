"""DeepLab v3 (Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from segmodels.encoders.body import DEEP_STEM, Body, grid_option
from segmodels.layers.aspp import ASPP, conv, rates_at
from segmodels.layers.heads import FCNHead
from segmodels.layers.names import ASPP as ASPP_NAMES
from segmodels.layers.names import Names
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model

PAPER = "Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587"


class ASPPHead(nn.Sequential):
    """mmseg's head: ASPP, 1x1 to the classes."""

    published: ClassVar[Names] = (*ASPP_NAMES, (r"^(convs|project)\.", r"0.\1."), (r"^conv_seg\.", "1."))


RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.007, "schedule": "polynomial", "batch_size": 16}  # section 4.1


@register_model(
    "deeplab_v3_resnet50",
    Card(
        PAPER,
        2017,
        parameters=42_004_074,
        size=(520, 520),
        gmac=168.73,
        source=(
            "torchvision 0.29 deeplabv3_resnet50, counted: 178.72 GMAC with the auxiliary head, 9.99, which it runs in"
            " eval too"
        ),
        result="COCO val2017, 20 VOC classes: mIoU 66.4 (torchvision's weights)",
        auxiliary_weights=(0.5,),
        **RECIPE,
    ),
)
def deeplab_v3_resnet50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    output_stride: int = 8,
    auxiliary: bool = True,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DilatedModel:
    """torchvision's form and keys: ASPP of 256 channels, one more 3x3 convolution, 1x1 to the classes; auxiliary head
    on layer 3, weight 0.5.

    The paper trains at ``output_stride`` 16 with ``multi_grid`` [1, 2, 4], factors on the dilation of the blocks of
    layer 4 (section 4.1). ``rates`` are the dilations of ASPP; None: 6, 12, 18 at output stride 16, and twice as much
    at 8.
    """
    encoder = body.build(in_channels, output_stride, **grid_option(multi_grid))
    aspp = ASPP(encoder.channels[-1], 256, rates or rates_at(output_stride))
    head = nn.Sequential(aspp, *conv(256, 256, 3), nn.Conv2d(256, num_classes, 1))
    aux_classifier = FCNHead(encoder.channels[-2], num_classes, nn.Dropout) if auxiliary else None
    return DilatedModel(encoder, head, aux_classifier)


@register_model(
    "deeplab_v3_resnet101",
    Card(
        PAPER,
        2017,
        parameters=60_996_202,
        size=(520, 520),
        gmac=248.75,
        source=(
            "torchvision 0.29 deeplabv3_resnet101, counted: 258.74 GMAC with the auxiliary head, 9.99, which it runs in"
            " eval too"
        ),
        result="COCO val2017, 20 VOC classes: mIoU 67.4 (torchvision's weights)",
        auxiliary_weights=(0.5,),
        **RECIPE,
    ),
)
def deeplab_v3_resnet101(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101"),
    output_stride: int = 8,
    auxiliary: bool = True,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DilatedModel:
    """``deeplab_v3_resnet50`` on the deeper ResNet-101."""
    return deeplab_v3_resnet50(num_classes, in_channels, body, output_stride, auxiliary, rates, multi_grid)


@register_model(
    "deeplab_v3_r50_d8",
    Card(
        PAPER,
        2017,
        parameters=68_113_030,
        num_classes=19,
        gmac=269.54,
        source="mmsegmentation 1.2.2 deeplabv3_r50-d8, counted",
        result="Cityscapes val: mIoU 79.32 (mmsegmentation, 80k iterations)",
        **RECIPE,
    ),
)
def deeplab_v3_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
    rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DilatedModel:
    """mmseg's form: a deep stem, ASPP of 512 channels with the pooled image first and a 3x3 projection, 1x1 to the
    classes; auxiliary weight 0.4.
    """
    encoder = body.build(in_channels, output_stride, **grid_option(multi_grid))
    rates = rates or rates_at(output_stride)
    aspp = ASPP(encoder.channels[-1], 512, rates, pooling_first=True, projection=3, dropout=0.1, drop_channels=True)
    aux_classifier = FCNHead(encoder.channels[-2], num_classes) if auxiliary else None
    return DilatedModel(encoder, ASPPHead(aspp, nn.Conv2d(512, num_classes, 1)), aux_classifier)

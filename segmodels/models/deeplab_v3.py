"""DeepLab v3 (Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587)."""

from __future__ import annotations

from typing import Any

from torch import nn

from segmodels.encoders.registry import create_encoder
from segmodels.layers.aspp import ASPP, conv, rates_at
from segmodels.models.dilated import DilatedModel, FCNHead, create_body
from segmodels.models.registry import Card, register_model

PAPER = "Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587"


def _register_torchvision(name: str, body_name: str, parameters: int, gmac: float, source: str, result: str) -> None:
    """torchvision's form and keys: ASPP of 256 channels, one more 3x3 convolution, 1x1 to the classes; auxiliary head
    on layer 3, weight 0.5.
    """
    counts: dict[str, Any] = {"parameters": parameters, "size": (520, 520), "gmac": gmac, "source": source}
    card = Card(PAPER, 2017, default_encoder=body_name, result=result, auxiliary_weights=(0.5,), **counts)

    @register_model(name, card)
    def build(
        num_classes: int,
        in_channels: int = 3,
        encoder: str = body_name,
        encoder_weights: str | None = None,
        encoder_options: dict[str, Any] | None = None,
        output_stride: int = 8,
        auxiliary: bool = True,
    ) -> nn.Module:
        """The paper trains at ``output_stride`` 16 with ``encoder_options={"multi_grid": [1, 2, 4]}`` (section 4.1);
        the rates follow the stride.
        """
        body = create_encoder(encoder, in_channels, output_stride, encoder_weights, **(encoder_options or {}))
        head = nn.Sequential(
            ASPP(body.channels[-1], 256, rates_at(output_stride)), *conv(256, 256, 3), nn.Conv2d(256, num_classes, 1)
        )
        return DilatedModel(body, head, FCNHead(body.channels[-2], num_classes) if auxiliary else None)


def _register_mmseg(
    name: str, body_name: str, num_classes: int, parameters: int, gmac: float, source: str, result: str
) -> None:
    """mmseg's form: a deep stem, ASPP of 512 channels with the pooled image first and a 3x3 projection, 1x1 to the
    classes; auxiliary weight 0.4.
    """
    card = Card(
        PAPER,
        2017,
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
        aspp = ASPP(body.channels[-1], 512, rates_at(8), pooling_first=True, projection=3, dropout=0.1)
        aux_classifier = FCNHead(body.channels[-2], num_classes) if auxiliary else None
        return DilatedModel(body, nn.Sequential(aspp, nn.Conv2d(512, num_classes, 1)), aux_classifier)


_SOURCE = (
    "specification [M]: torchvision deeplabv3_{}, {} GMAC with the auxiliary head that it runs in eval mode too, 9.99"
)
_RESULT = "COCO val2017, 20 VOC classes: mIoU {} (torchvision's weights)"
_register_torchvision(
    "deeplab_v3_resnet50", "resnet50", 42_004_074, 168.73, _SOURCE.format("resnet50", 178.72), _RESULT.format(66.4)
)
_register_torchvision(
    "deeplab_v3_resnet101", "resnet101", 60_996_202, 248.75, _SOURCE.format("resnet101", 258.74), _RESULT.format(67.4)
)
_register_mmseg(
    "deeplab_v3_r50_d8",
    "resnet50",
    19,
    68_113_030,
    269.54,
    "specification [M]: mmseg deeplabv3_r50-d8",
    "Cityscapes val: mIoU 79.32 (mmseg, 80k iterations)",
)

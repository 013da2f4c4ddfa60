"""PSPNet (Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105)."""

from __future__ import annotations

from typing import Any

from torch import nn

from segmodels.layers.pyramid_pooling import PyramidPooling
from segmodels.models.dilated import DilatedModel, FCNHead, create_body
from segmodels.models.registry import Card, register_model

PAPER = "Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017, arXiv 1612.01105"


class PSPHead(nn.Sequential):
    """Pyramid pooling, dropout, 1x1 to the classes."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)


def _register(
    name: str, body_name: str, num_classes: int, parameters: int, gmac: float, source: str, result: str
) -> None:
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
        """ResNet with a deep stem at output stride 8, as in the authors' release; the auxiliary loss weighs 0.4
        (section 4.1).
        """
        body = create_body(encoder, in_channels, 8, encoder_weights, encoder_options)
        return DilatedModel(
            body,
            PSPHead(body.channels[-1], num_classes),
            FCNHead(body.channels[-2], num_classes) if auxiliary else None,
        )


_MMSEG = "specification [M]: mmseg pspnet_r50-d8"
_OWN = "own count; body and auxiliary head: specification [M]"
_register(
    "pspnet_r50_d8", "resnet50", 19, 48_975_494, 178.32, _MMSEG, "Cityscapes val: mIoU 78.55 (mmseg, 80k iterations)"
)
_register("pspnet_r101_d8", "resnet101", 21, 67_969_162, 255.90, _OWN, "PASCAL VOC 2012 test: mIoU 82.6 (paper)")

"""DeepLab (Chen et al.: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, ICLR 2015,
arXiv 1412.7062).

Trained without the CRF, which follows as a step of inference.
"""

from __future__ import annotations

from torch import nn

from segmodels.encoders.registry import create_encoder
from segmodels.layers.aspp import AtrousClassifier
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model

PAPER = (
    "Chen et al.: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, ICLR 2015, arXiv"
    " 1412.7062"
)


def _register(name: str, kernel_size: int, rate: int, hidden: int, parameters: int, gmac: float, result: str) -> None:
    """VGG-16 at output stride 8, its fully connected layers as convolutions, the first of them of ``kernel_size`` and
    dilation ``rate`` (table 2).
    """
    source = "parameters: specification [M], paper, table 2, in millions; gmac: own count"
    card = Card(
        PAPER,
        2015,
        default_encoder="vgg16",
        parameters=parameters,
        size=(513, 513),
        gmac=gmac,
        source=source,
        result=result,
    )

    @register_model(name, card)
    def build(num_classes: int, in_channels: int = 3, encoder_weights: str | None = None) -> nn.Module:
        body = create_encoder("vgg16", in_channels, 8, encoder_weights, pool=3)
        return DilatedModel(body, AtrousClassifier(body.channels[-1], num_classes, kernel_size, rate, hidden), None)


_register(
    "deeplab_v1_large_fov", 3, 12, 1024, 20_505_429, 128.58, "PASCAL VOC 2012 val: mIoU 62.25, with CRF 67.64 (paper)"
)
_register("deeplab_v1_4x4", 4, 8, 4096, 65_140_565, 317.14, "PASCAL VOC 2012 val: mIoU with CRF 67.14 (paper, table 2)")
_register("deeplab_v1_7x7", 7, 4, 4096, 134_346_581, 609.54, "PASCAL VOC 2012 val: mIoU 64.38, with CRF 67.64 (paper)")

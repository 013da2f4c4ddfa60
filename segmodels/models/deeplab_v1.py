"""DeepLab (Chen et al.: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, ICLR 2015,
arXiv 1412.7062).

Trained without the CRF, which follows as a step of inference.
"""

from __future__ import annotations

from typing import Any

from segmodels.encoders.body import Body
from segmodels.encoders.vgg import check_vgg
from segmodels.layers.aspp import AtrousClassifier
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model

PAPER = (
    "Chen et al.: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, ICLR 2015, arXiv"
    " 1412.7062"
)


BODY = Body("vgg16", options={"pool": 3})
RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 5e-4,
    "batch_size": 20,
}  # section 4.3; the rate of the last layer is 0.01


@register_model(
    "deeplab_v1_large_fov",
    Card(
        PAPER,
        2015,
        parameters=20_505_429,
        size=(513, 513),
        gmac=128.58,
        source="paper, table 2: 20.5M; gmac: own count",
        result="PASCAL VOC 2012 val: mIoU 62.25, with CRF 67.64 (paper)",
        **RECIPE,
    ),
)
def deeplab_v1_large_fov(
    num_classes: int,
    in_channels: int = 3,
    body: Body = BODY,
    output_stride: int = 8,
    rate: int = 12,
    pool5a: bool = False,
) -> DilatedModel:
    """VGG-16 at output stride 8, its fully connected layers as convolutions of 1024, the first 3x3 with dilation 12.

    ``pool5a``, which the paper does not mention, is the 3x3 average pool of stride 1 in front of them in the authors'
    released model: set it to compute with those weights.
    """
    return _deeplab(num_classes, in_channels, body, output_stride, 3, rate, hidden=1024, pool5a=pool5a)


@register_model(
    "deeplab_v1_4x4",
    Card(
        PAPER,
        2015,
        parameters=65_140_565,
        size=(513, 513),
        gmac=317.14,
        source="paper, table 2: 65.1M; gmac: own count",
        result="PASCAL VOC 2012 val: mIoU with CRF 67.14 (paper, table 2)",
        **RECIPE,
    ),
)
def deeplab_v1_4x4(
    num_classes: int, in_channels: int = 3, body: Body = BODY, output_stride: int = 8, rate: int = 8
) -> DilatedModel:
    """The first fully connected layer as a 4x4 convolution of 4096 with dilation 8."""
    return _deeplab(num_classes, in_channels, body, output_stride, 4, rate, hidden=4096)


@register_model(
    "deeplab_v1_7x7",
    Card(
        PAPER,
        2015,
        parameters=134_346_581,
        size=(513, 513),
        gmac=609.54,
        source="paper, table 2: 134.3M; gmac: own count",
        result="PASCAL VOC 2012 val: mIoU 64.38, with CRF 67.64 (paper)",
        **RECIPE,
    ),
)
def deeplab_v1_7x7(
    num_classes: int, in_channels: int = 3, body: Body = BODY, output_stride: int = 8, rate: int = 4
) -> DilatedModel:
    """The first fully connected layer as a 7x7 convolution of 4096 with dilation 4."""
    return _deeplab(num_classes, in_channels, body, output_stride, 7, rate, hidden=4096)


def _deeplab(
    num_classes: int,
    in_channels: int,
    body: Body,
    output_stride: int,
    kernel_size: int,
    rate: int,
    hidden: int,
    pool5a: bool = False,
) -> DilatedModel:
    """VGG-16 and its fully connected layers as convolutions: the rows of table 2."""
    encoder = body.build(in_channels, output_stride)
    check_vgg(encoder, "DeepLab v1")
    classifier = AtrousClassifier(encoder.channels[-1], num_classes, kernel_size, rate, hidden, pool5a=pool5a)
    return DilatedModel(encoder, classifier, None)

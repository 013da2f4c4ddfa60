"""DeepLab v2 (Chen et al.: DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
Fully Connected CRFs, TPAMI 2018, arXiv 1606.00915). Trained without the CRF, which follows as a step of inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import create_encoder
from segmodels.layers.aspp import SummedASPP
from segmodels.layers.blocks import resize
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Chen et al.: DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully"
    " Connected CRFs, TPAMI 2018, arXiv 1606.00915"
)


class DeepLabV2(nn.Module):
    """A dilated encoder and summed ASPP, run on the image at several scales; at each position and class the largest
    score counts (section 4.1.2).

    In training the scores of each scale are auxiliary outputs: the loss is on each of them and on their maximum, all
        with weight 1. Any input size.

    Args:
        scales: of the further copies of the image beside the image itself.
    """

    def __init__(self, encoder: Encoder, classifier: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.scales = tuple(scales)

    def forward(self, images: Tensor) -> PixelOutput:
        copies = [
            images,
            *(
                functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
                for scale in self.scales
            ),
        ]
        scores = [self.classifier(self.encoder(copy)[-1]) for copy in copies]
        largest = torch.stack([resize(score, scores[0].shape[-2:]) for score in scores]).amax(dim=0)
        size = images.shape[-2:]
        if not self.training or not self.scales:
            return PixelOutput(resize(largest, size))
        return PixelOutput(resize(largest, size), tuple(resize(score, size) for score in scores))


@register_model(
    "deeplab_v2_resnet101",
    Card(
        PAPER,
        2016,
        default_encoder="resnet101",
        parameters=44_048_532,
        size=(513, 513),
        gmac=344.88,
        source=(
            "specification [M]: kazuto1011/deeplab-pytorch, 188.9 GMAC for the image itself; gmac with the two smaller"
            " copies: own count"
        ),
        result="PASCAL VOC 2012 val: mIoU 76.35, with CRF 77.69; test with CRF 79.7 (paper)",
        auxiliary_weights=(1.0,),
    ),
)
def deeplab_v2_resnet101(
    num_classes: int,
    in_channels: int = 3,
    encoder: str = "resnet101",
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
    scales: Sequence[float] = (0.5, 0.75),
) -> nn.Module:
    """The paper's best: three scales, dilations 6 to 24.

    A ResNet is that of the authors' release: it strides in the 1x1 convolutions, rounds up in the pool, and every block
    of a dilated stage has its dilation. With weights of torchvision or timm set ``encoder_options={"stride_in_1x1":
    False}``; ``{"frozen_batch_norm": True}`` keeps the statistics of batch norm as the paper does.
    """
    release = (
        {"contract_dilation": False, "stride_in_1x1": True, "ceil_mode": True} if encoder.startswith("resnet") else {}
    )
    body = create_encoder(encoder, in_channels, 8, encoder_weights, **release | (encoder_options or {}))
    return DeepLabV2(body, SummedASPP(body.channels[-1], num_classes), scales)


@register_model(
    "deeplab_v2_vgg16",
    Card(
        PAPER,
        2016,
        default_encoder="vgg16",
        parameters=37_877_652,
        size=(513, 513),
        gmac=201.96,
        source="parameters: specification [M]; gmac: own count",
        result="PASCAL VOC 2012 val: mIoU 68.96, with CRF 71.57 (paper, table 3)",
        auxiliary_weights=(1.0,),
    ),
)
def deeplab_v2_vgg16(
    num_classes: int, in_channels: int = 3, encoder_weights: str | None = None, scales: Sequence[float] = ()
) -> nn.Module:
    """The paper's ASPP-L on VGG-16: in each of four branches the fully connected layers as convolutions of 1024; one
    scale.
    """
    body = create_encoder("vgg16", in_channels, 8, encoder_weights, pool=3)
    return DeepLabV2(body, SummedASPP(body.channels[-1], num_classes, hidden=1024), scales)

"""DeepLab v2 (Chen et al.: DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
Fully Connected CRFs, TPAMI 2018, arXiv 1606.00915). Trained without the CRF, which follows as a step of inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.checks import shown
from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.aspp import SummedASPP
from segmodels.layers.blocks import resize
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Chen et al.: DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully"
    " Connected CRFs, TPAMI 2018, arXiv 1606.00915"
)


class DeepLabV2(Model):
    """A dilated encoder and summed ASPP, run on the image at several scales; at each position and class the largest
    score counts (section 4.1.2).

    In training the scores of each scale are auxiliary outputs: the loss is on each of them and on their maximum, all
    with weight 1. Any input size.

    Args:
        scales: of the further copies of the image beside the image itself.
    """

    def __init__(self, encoder: Encoder, classifier: SummedASPP, scales: Sequence[float]) -> None:
        super().__init__()
        if not all(0.1 <= scale <= 10 for scale in scales):
            raise InputError(
                f"scales is {shown(list(scales))}, expected numbers from 0.1 to 10, factors of the image's size"
            )
        self.encoder = encoder
        self.classifier = classifier
        self.scales = tuple(scales)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        copies = [
            images,
            *(
                functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
                for scale in self.scales
                # a copy without a pixel says nothing; asked while exporting, this would tie the graph to large images
                if torch.compiler.is_exporting() or min(images.shape[-2:]) * scale >= 1
            ),
        ]
        scores = [self.classifier(self.encoder(copy)[-1]) for copy in copies]
        largest = torch.stack([resize(score, scores[0].shape[-2:]) for score in scores]).amax(dim=0)
        size = images.shape[-2:]
        if not self.training or not self.scales:
            return PixelOutput(resize(largest, size))
        return PixelOutput(resize(largest, size), tuple(resize(score, size) for score in scores))

    def classifiers(self) -> list[nn.Module]:
        return last_layers(*self.classifier.branches)


RECIPE: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 5e-4, "schedule": "polynomial"}  # section 4.1


@register_model(
    "deeplab_v2_resnet101",
    Card(
        PAPER,
        2016,
        parameters=44_048_532,
        size=(513, 513),
        gmac=344.88,
        source="kazuto1011/deeplab-pytorch, counted: 188.9 GMAC for the image itself; the rest: own count",
        result="PASCAL VOC 2012 val: mIoU 76.35, with CRF 77.69; test with CRF 79.7 (paper)",
        auxiliary_weights=(1.0,),
        **RECIPE,
    ),
)
def deeplab_v2_resnet101(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101", options={"contract_dilation": False, "stride_in_1x1": True, "ceil_mode": True}),
    scales: Sequence[float] = (0.5, 0.75),
    rates: Sequence[int] = (6, 12, 18, 24),
    output_stride: int = 8,
) -> DeepLabV2:
    """The paper's best: three scales, dilations 6 to 24.

    The ResNet is that of the authors' release: it strides in the 1x1 convolutions, rounds up in the pool, and every
    block of a dilated stage has its dilation. With weights of torchvision or timm set ``encoder_options={
    "stride_in_1x1": False}``; ``{"frozen_batch_norm": True}`` keeps the statistics of batch norm as the paper does.
    """
    encoder = body.build(in_channels, output_stride)
    return DeepLabV2(encoder, SummedASPP(encoder.channels[-1], num_classes, rates), scales)


@register_model(
    "deeplab_v2_vgg16",
    Card(
        PAPER,
        2016,
        parameters=37_877_652,
        size=(513, 513),
        gmac=201.96,
        source="own count",
        result="PASCAL VOC 2012 val: mIoU 68.96, with CRF 71.57 (paper, table 3)",
        auxiliary_weights=(1.0,),
        **RECIPE,
    ),
)
def deeplab_v2_vgg16(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("vgg16", options={"pool": 3}),
    scales: Sequence[float] = (),
    rates: Sequence[int] = (6, 12, 18, 24),
    output_stride: int = 8,
) -> DeepLabV2:
    """The paper's ASPP-L on VGG-16: in each of four branches the fully connected layers as convolutions of 1024; one
    scale.
    """
    encoder = body.build(in_channels, output_stride)
    return DeepLabV2(encoder, SummedASPP(encoder.channels[-1], num_classes, rates, hidden=1024), scales)

"""FCN (Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv
1411.4038).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.encoders.vgg import check_vgg
from segmodels.encoders.weights import read_state_dict
from segmodels.layers.heads import ConcatFeatures, FCNHead
from segmodels.models.base import Model
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv 1411.4038"


class VGGFCN(Model):
    """FCN-32s, -16s and -8s: VGG-16 with its classifier as convolutions, upsampled by transposed convolutions that
    start as bilinear interpolation.

    As in the authors' release the image is padded by 99 on each side before the first (padded) convolution, pools round
    up, and every map is cropped to the part that lies on the map it is added to: offsets 5 and 9 for pool4 and pool3,
    and 19, 27 or 31 for the output. Any input size.

    Args:
        fused_pools: how many finer maps are added to the scores: 0 (32s), 1 (pool4: 16s) or 2 (pool4 and pool3: 8s).
    """

    def __init__(self, encoder: Encoder, num_classes: int, fused_pools: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.encoder = encoder
        self.fc6 = nn.Conv2d(512, 4096, 7)
        self.fc7 = nn.Conv2d(4096, 4096, 1)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(4096, num_classes, 1)
        self.score_pools = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in (512, 256)[:fused_pools])
        self.upscore_pools = nn.ModuleList(bilinear_upsampling(num_classes, 2) for _ in range(fused_pools))
        stride = 32 // 2**fused_pools
        self.upscore = bilinear_upsampling(num_classes, stride).requires_grad_(False)
        self.offset = {32: 19, 16: 27, 8: 31}[stride]
        for layer in (self.score, *self.score_pools):  # section 4.3: the scores start at zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        _, _, pool3, pool4, pool5 = self.encoder(functional.pad(images, (99, 99, 99, 99)))
        features = self.dropout(functional.relu(self.fc6(pool5)))
        scores = self.score(self.dropout(functional.relu(self.fc7(features))))
        for upscore, score, finer, offset in zip(
            self.upscore_pools, self.score_pools, (pool4, pool3), (5, 9), strict=False
        ):
            scores = upscore(scores)
            scores = scores + _crop(score(finer), offset, scores)
        return PixelOutput(_crop(self.upscore(scores), self.offset, images))

    def classifiers(self) -> list[nn.Module]:
        return [self.score, *self.score_pools]


def bilinear_upsampling(channels: int, stride: int) -> nn.ConvTranspose2d:
    """A transposed convolution of kernel ``2 * stride``, each channel for itself at first, that interpolates bilinearly
    (section 3.3).
    """
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride, bias=False)
    ramp = 1 - (torch.arange(2 * stride, dtype=torch.float32) - (stride - 0.5)).abs() / stride
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp))
    return layer


def _crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    return x[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]


class ConcatHead(ConcatFeatures):
    """mmseg's head: the concatenating convolutions, dropout, 1x1 to the classes."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(super().forward(x)))


CAFFE_VGG = Body("vgg16", options={"ceil_mode": True})


@register_model(
    "fcn32s_vgg16",
    Card(
        PAPER,
        2015,
        parameters=134_346_581,
        gmac=190.19,
        source="own count; with the frozen last upsampling 136,152,917, from the table of layers",
        result="PASCAL VOC 2011 val: mIoU 59.4 (paper)",
        optimizer="sgd",
        lr=1e-4,
        weight_decay=5e-4,
        schedule="constant",
        batch_size=20,
    ),
)
def fcn32s_vgg16(num_classes: int, in_channels: int = 3, body: Body = CAFFE_VGG) -> VGGFCN:
    """FCN-32s: the scores at stride 32, upsampled in one step."""
    return _fcn_vgg(num_classes, in_channels, body, fused_pools=0)


@register_model(
    "fcn16s_vgg16",
    Card(
        PAPER,
        2015,
        parameters=134_364_410,
        gmac=190.28,
        source="own count; with the frozen last upsampling 134,815,994, from the table of layers",
        result="PASCAL VOC 2011 val: mIoU 62.4 (paper)",
    ),
)
def fcn16s_vgg16(num_classes: int, in_channels: int = 3, body: Body = CAFFE_VGG) -> VGGFCN:
    """FCN-16s: the scores of pool4 added at stride 16."""
    return _fcn_vgg(num_classes, in_channels, body, fused_pools=1)


@register_model(
    "fcn8s_vgg16",
    Card(
        PAPER,
        2015,
        parameters=134_376_863,
        gmac=190.37,
        source="own count; with the frozen last upsampling 134,489,759, from the table of layers",
        result="PASCAL VOC 2011 val: mIoU 62.7, VOC 2012 test: 62.2 (paper)",
    ),
)
def fcn8s_vgg16(num_classes: int, in_channels: int = 3, body: Body = CAFFE_VGG) -> VGGFCN:
    """FCN-8s: the scores of pool4 and pool3 added at strides 16 and 8."""
    return _fcn_vgg(num_classes, in_channels, body, fused_pools=2)


def _fcn_vgg(num_classes: int, in_channels: int, body: Body, fused_pools: int) -> VGGFCN:
    """Weights of torchvision hold the fully connected layers too: they become the convolutions of the classifier."""
    encoder = body.build(in_channels)
    check_vgg(encoder, "this FCN")
    model = VGGFCN(encoder, num_classes, fused_pools)
    if body.weights is not None:
        weights = read_state_dict(body.weights)
        for layer, key in ((model.fc6, "classifier.0"), (model.fc7, "classifier.3")):
            if f"{key}.weight" in weights:
                layer.load_state_dict(
                    {"weight": weights[f"{key}.weight"].reshape(layer.weight.shape), "bias": weights[f"{key}.bias"]}
                )
    return model


@register_model(
    "fcn_resnet50",
    Card(
        PAPER,
        2015,
        parameters=35_322_218,
        size=(520, 520),
        gmac=142.73,
        source=(
            "torchvision 0.29 fcn_resnet50, counted: 152.72 GMAC with the auxiliary head, 9.99, which it runs in eval"
            " too"
        ),
        result="COCO val2017, 20 VOC classes: mIoU 60.5 (torchvision's weights)",
        auxiliary_weights=(0.5,),
    ),
)
def fcn_resnet50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """torchvision's form: ResNet-50 with output stride 8, one 3x3 convolution in the head, auxiliary head on layer 3,
    weight 0.5.
    """
    encoder = body.build(in_channels, output_stride)
    aux_classifier = FCNHead(encoder.channels[-2], num_classes, nn.Dropout) if auxiliary else None
    return DilatedModel(encoder, FCNHead(encoder.channels[-1], num_classes, nn.Dropout), aux_classifier)


@register_model(
    "fcn_resnet101",
    Card(
        PAPER,
        2015,
        parameters=54_314_346,
        size=(520, 520),
        gmac=222.75,
        source=(
            "torchvision 0.29 fcn_resnet101, counted: 232.74 GMAC with the auxiliary head, 9.99, which it runs in eval"
            " too"
        ),
        result="COCO val2017, 20 VOC classes: mIoU 63.7 (torchvision's weights)",
        auxiliary_weights=(0.5,),
    ),
)
def fcn_resnet101(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101"),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """``fcn_resnet50`` on the deeper ResNet-101."""
    return fcn_resnet50(num_classes, in_channels, body, output_stride, auxiliary)


@register_model(
    "fcn_r50_d8",
    Card(
        PAPER,
        2015,
        parameters=49_497_734,
        num_classes=19,
        gmac=197.60,
        source="mmsegmentation 1.2.2 fcn_r50-d8, counted",
        result="Cityscapes val: mIoU 73.61 (mmsegmentation, 80k iterations)",
    ),
)
def fcn_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """mmseg's form: ResNet-50 with a deep stem at output stride 8, two 3x3 convolutions whose result lies beside the
    input of the last.
    """
    encoder = body.build(in_channels, output_stride)
    aux_classifier = FCNHead(encoder.channels[-2], num_classes) if auxiliary else None
    return DilatedModel(encoder, ConcatHead(encoder.channels[-1], num_classes), aux_classifier)


@register_model(
    "fcn_r101_d8",
    Card(PAPER, 2015, parameters=68_491_402, gmac=275.18, source="mmsegmentation 1.2.2 fcn_r101-d8, counted"),
)
def fcn_r101_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> DilatedModel:
    """``fcn_r50_d8`` on the deeper ResNet-101."""
    return fcn_r50_d8(num_classes, in_channels, body, output_stride, auxiliary)

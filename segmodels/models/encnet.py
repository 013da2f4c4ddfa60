"""EncNet (Zhang et al.: Context Encoding for Semantic Segmentation, CVPR 2018, arXiv 1803.08904)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.heads import FCNHead
from segmodels.layers.names import Names
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Zhang et al.: Context Encoding for Semantic Segmentation, CVPR 2018, arXiv 1803.08904"


class Encoding(nn.Module):
    """Residuals of all positions to each word of a learned code book: e_k = Σ_i a_ik (x_i - d_k), a_i = softmax_k(-s_k
    |x_i - d_k|²) (section 3.1).

    ``(B, C, h, w)`` to ``(B, K, C)``. The parameter ``scale`` is -s_k. Distances are taken in float32, by matrix
    products, so that no tensor of positions x words x channels exists.
    """

    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        bound = (num_codes * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            x = x.float().flatten(2)
            squares = x.square().sum(dim=1)[:, None] + self.codewords.square().sum(dim=1)[:, None]
            distances = squares - 2 * self.codewords @ x
            assignment = (self.scale[:, None] * distances).softmax(dim=1)
            return assignment @ x.transpose(1, 2) - assignment.sum(dim=2, keepdim=True) * self.codewords


class ContextEncoding(nn.Module):
    """The encoding of the whole map, and the map with its channels weighted by it (section 3.1): to ``(B, C)`` and
    ``(B, C, h, w)``.
    """

    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        self.encoding_project = ConvNormAct(channels, channels, 1)
        self.encoding = nn.Sequential(Encoding(channels, num_codes), nn.BatchNorm1d(num_codes), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoding(self.encoding_project(x)).mean(dim=1)
        return encoded, torch.relu(x + x * self.fc(encoded)[..., None, None])


class EncNet(Model):
    """Dilated encoder, 3x3 convolution, context encoding, classes.

    In training there are two more outputs: the auxiliary head's logits (weight 0.4 in the paper) and
    ``extras["presence"]``, from the encoding, of the classes that the image shows (SE-loss, section 3.1, weight 0.2:
    loss ``presence``).
    """

    published: ClassVar[Names] = ((r"^decode_head\.", ""),)

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        channels: int = 512,
        num_codes: int = 32,
        auxiliary: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bottleneck = ConvNormAct(encoder.channels[-1], channels)
        self.enc_module = ContextEncoding(channels, num_codes)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.se_layer = nn.Linear(channels, num_classes) if auxiliary else None
        self.aux_classifier = FCNHead(encoder.channels[-2], num_classes) if auxiliary else None

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        size = images.shape[-2:]
        *_, middle, last = self.encoder(images)
        encoded, x = self.enc_module(self.bottleneck(last))
        logits = resize(self.conv_seg(self.dropout(x)), size)
        if not self.training or self.aux_classifier is None or self.se_layer is None:
            return PixelOutput(logits)
        return PixelOutput(
            logits, (resize(self.aux_classifier(middle), size),), extras={"presence": self.se_layer(encoded)}
        )

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.conv_seg, self.se_layer, self.aux_classifier)


@register_model(
    "encnet_r50_d8",
    Card(
        PAPER,
        2018,
        parameters=35_891_961,
        num_classes=19,
        gmac=140.82,
        source="mmsegmentation 1.2.2 encnet_r50-d8, counted; 140.69 GMAC without the products of the encoding",
        result="Cityscapes val: mIoU 77.94 (mmsegmentation)",
        losses={"cross_entropy": 1.0, "presence": 0.2},
        optimizer="sgd",
        weight_decay=1e-4,
        schedule="polynomial",
        batch_size=16,
    ),
)
def encnet_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    auxiliary: bool = True,
) -> EncNet:
    """ResNet-50 with a deep stem at output stride 8 and 32 code words."""
    return EncNet(body.build(in_channels, output_stride), num_classes, auxiliary=auxiliary)

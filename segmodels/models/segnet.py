"""SegNet (Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation, arXiv 1511.00561).

The encoder is VGG-16's 13 convolutions with batch norm. Each max-pool remembers where its maxima were; the mirrored
decoder puts its values back at those places and makes them dense by convolutions. No feature map is copied to the
decoder. The paper trains with median-frequency class weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.encoders.vgg import STAGES, check_vgg
from segmodels.layers.blocks import ConvNormAct, check_images, check_size
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image"
    " Segmentation, TPAMI 2017, arXiv 1511.00561"
)


class SegNet(Model):
    """On VGG-16 with batch norm, whose pools also tell where their maxima were; any input size of at least 32 x 32."""

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        check_vgg(encoder, "SegNet")
        self.encoder = encoder
        self.decoder = nn.ModuleList()
        for stage, widths in reversed(list(enumerate(STAGES))):
            last = num_classes if stage == 0 else STAGES[stage - 1][-1]
            layers: list[nn.Module] = [ConvNormAct(width, width, bias=True) for width in widths[:-1]]
            layers.append(
                ConvNormAct(widths[-1], last, bias=True) if stage else nn.Conv2d(widths[-1], last, 3, padding=1)
            )
            self.decoder.append(nn.Sequential(*layers))
        for layer in self.decoder.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.encoder.in_channels)
        check_size(images, self.encoder.strides[-1], "SegNet")
        x, pooled = images, []
        for *convolutions, _ in self.encoder.stages():
            for layer in convolutions:
                x = layer(x)
            size = x.shape[-2:]
            x, indices = functional.max_pool2d(x, 2, return_indices=True)
            pooled.append((indices, size))
        for block in self.decoder:
            x = block(unpool(x, *pooled.pop()))
        return PixelOutput(x)

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.decoder)


def unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Put the values of ``x``, ``(B, C, h, w)``, at the flat ``indices`` (as ``max_pool2d`` returns them) of zeros of
    ``size``.

    Equal to ``torch.nn.MaxUnpool2d``, as a scatter, which exporters know.
    """
    height, width = size
    flat = x.new_zeros(x.shape[0], x.shape[1], height * width).scatter(2, indices.flatten(2), x.flatten(2))
    return flat.view(x.shape[0], x.shape[1], height, width)


@register_model(
    "segnet",
    Card(
        PAPER,
        2015,
        parameters=29_449_355,
        num_classes=11,
        size=(360, 480),
        gmac=106.29,
        source="own count, as 29.46M of the literature",
        result="CamVid test, 11 classes, 3.5k images: mIoU 60.1 (paper)",
        optimizer="sgd",
        lr=0.1,
        schedule="constant",
        batch_size=12,
    ),
)
def segnet(num_classes: int, in_channels: int = 3, body: Body = Body("vgg16_bn")) -> SegNet:
    """SegNet with 13 encoder and 13 decoder convolutions."""
    return SegNet(body.build(in_channels), num_classes)

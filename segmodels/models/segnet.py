"""SegNet (Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation, arXiv 1511.00561).

The encoder is VGG-16's 13 convolutions with batch norm. Each max-pool remembers where its maxima were; the mirrored
decoder puts its values back at those places and makes them dense by convolutions. No feature map is copied to the
decoder. The paper trains with median-frequency class weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import create_encoder
from segmodels.encoders.vgg import STAGES
from segmodels.layers.blocks import ConvNormAct, check_images, check_size
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image"
    " Segmentation, TPAMI 2017, arXiv 1511.00561"
)


class SegNet(nn.Module):
    """``encoder`` is VGG-16 with batch norm, without its pools' outputs; any input size of at least 32 x 32."""

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
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

    def forward(self, images: Tensor) -> PixelOutput:
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
        default_encoder="vgg16_bn",
        parameters=29_449_355,
        num_classes=11,
        size=(360, 480),
        gmac=106.29,
        source="specification [M]; gmac: own count",
        result="CamVid test, 11 classes, 3.5k images: mIoU 60.1 (paper)",
    ),
)
def segnet(num_classes: int, in_channels: int = 3, encoder_weights: str | None = None) -> nn.Module:
    """SegNet with 13 encoder and 13 decoder convolutions."""
    return SegNet(create_encoder("vgg16_bn", in_channels, weights=encoder_weights), num_classes)

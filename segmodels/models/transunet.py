"""TransUNet (Chen et al.: TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation, 2021, arXiv
2102.04306).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct, double_conv, resize
from segmodels.layers.names import Names
from segmodels.layers.padding import crop
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Chen et al.: TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation, 2021, arXiv 2102.04306"
)
WIDTHS = (256, 128, 64, 16)


class UpStep(nn.Module):
    """Bilinear doubling with aligned corners, the encoder's map beside it where there is one, two 3x3 convolutions with
    batch normalisation.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = double_conv(in_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        x = resize(x, [2 * size for size in x.shape[-2:]], align_corners=True)
        return self.convs(torch.cat([x, *skips], dim=1))


class TransUNet(Model):
    """An encoder whose map at stride 16 comes from a transformer, and the cascaded upsampler (section 3.3): 3x3
    convolution, four doublings, with the encoder's maps at strides 8, 4 and 2, a 3x3 convolution to the classes. Any
    input size.
    """

    published: ClassVar[Names] = (
        (r"^decoder\.conv_more\.0\.", "conv_more.conv."),
        (r"^decoder\.conv_more\.1\.", "conv_more.norm."),
        *(
            (rf"^decoder\.blocks\.(\d)\.conv{i + 1}\.{j}\.", rf"decoder.\1.convs.{i}.{layer}.")
            for i in range(2)
            for j, layer in enumerate(("conv", "norm"))
        ),
        (r"^segmentation_head\.0\.", "head."),
    )

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        *skips, last = encoder.channels_at((8, 4, 2, 16))
        self.conv_more = ConvNormAct(last, 512)
        self.decoder = nn.ModuleList(
            UpStep(*channels) for channels in zip((512, *WIDTHS), (*skips, 0), WIDTHS, strict=False)
        )
        self.head = nn.Conv2d(WIDTHS[-1], num_classes, 3, padding=1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        *skips, x = self.encoder.maps(images, (8, 4, 2, 16))
        x = self.conv_more(x)
        for i, block in enumerate(self.decoder):
            x = block(x, *skips[i : i + 1])
        return PixelOutput(crop(self.head(x), images.shape[2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.head]

    def translate(self, key: str) -> str:
        """Names of the authors' release."""
        if key.startswith("transformer."):
            return f"encoder.{self.encoder.translate(key.removeprefix('transformer.'))}"
        return super().translate(key)


RECIPE: dict[str, Any] = {
    "num_classes": 9,
    "size": (224, 224),
    "losses": {"cross_entropy": 0.5, "dice": 0.5},
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "polynomial",
    "batch_size": 24,
}  # section 4.2


@register_model(
    "transunet_r50_b16",
    Card(
        PAPER,
        2021,
        parameters=105_277_081,
        gmac=29.23,
        source="Beckschen/TransUNet R50-ViT-B_16 at 224, counted; the paper's count",
        result="Synapse: Dice 77.48, HD95 31.69 mm (paper, table 1)",
        **RECIPE,
    ),
)
def transunet_r50_b16(num_classes: int, in_channels: int = 3, body: Body = Body("r50_vit_base")) -> TransUNet:
    """ResNet-50 and ViT-B/16."""
    return TransUNet(body.build(in_channels, 16), num_classes)


@register_model(
    "transunet_r50_l16",
    Card(
        PAPER,
        2021,
        parameters=324_024_729,
        gmac=73.23,
        source="Beckschen/TransUNet R50-ViT-L_16 at 224, counted; gmac: own count",
        **RECIPE,
    ),
)
def transunet_r50_l16(num_classes: int, in_channels: int = 3, body: Body = Body("r50_vit_large")) -> TransUNet:
    """ResNet-50 and ViT-L/16."""
    return TransUNet(body.build(in_channels, 16), num_classes)

"""What the context models share: a dilated body, a head on its last map, an auxiliary FCN head on the map before it.

PSPNet (Zhao et al. 2017, 1612.01105, section 3.3) brought this arrangement; those after it changed the head alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import create_encoder
from segmodels.layers.blocks import resize
from segmodels.outputs import PixelOutput


class DilatedModel(nn.Module):
    """A dilated encoder, a head on its last map, bilinear upsampling to the input, an auxiliary head on the map before
    the last in training.
    """

    def __init__(self, encoder: Encoder, classifier: nn.Module, aux_classifier: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor) -> PixelOutput:
        *_, middle, last = self.encoder(images)
        logits = resize(self.classifier(last), images.shape[-2:])
        if not self.training or self.aux_classifier is None:
            return PixelOutput(logits)
        return PixelOutput(logits, (resize(self.aux_classifier(middle), images.shape[-2:]),))


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 to the classes: torchvision's head
    and its keys.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1) -> None:
        channels = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )


def create_body(
    encoder: str, in_channels: int, output_stride: int, weights: str | None, options: dict[str, Any] | None
) -> Encoder:
    """An encoder as mmseg's context models take it: a ResNet has the deep stem of three 3x3 convolutions unless
    ``options`` say otherwise.
    """
    stem = {"deep_stem": True} if encoder.startswith("resnet") else {}
    return create_encoder(encoder, in_channels, output_stride, weights, **stem | (options or {}))

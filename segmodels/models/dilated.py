"""The arrangement that the context models share: a dilated encoder, a head on its last map, and in training an FCN head
on the map before it.

PSPNet (Zhao et al. 2017, 1612.01105, section 3.3) brought it; those after it changed the head alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.layers.blocks import resize
from segmodels.layers.names import renamed
from segmodels.models.base import Model, last_layers
from segmodels.outputs import PixelOutput


class DilatedModel(Model):
    """A dilated encoder, a head on its last map, bilinear upsampling to the input, an auxiliary head on the map before
    the last in training.
    """

    def __init__(self, encoder: Encoder, classifier: nn.Module, aux_classifier: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        *_, middle, last = self.encoder(images)
        logits = resize(self.classifier(last), images.shape[-2:])
        if not self.training or self.aux_classifier is None:
            return PixelOutput(logits)
        return PixelOutput(logits, (resize(self.aux_classifier(middle), images.shape[-2:]),))

    def translate(self, key: str) -> str:
        """The head has names of its own, ``published`` of its class."""
        key = super().translate(key)
        if not key.startswith("decode_head."):
            return key
        return f"classifier.{renamed(key.removeprefix('decode_head.'), getattr(self.classifier, 'published', ()))}"

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.classifier, self.aux_classifier)

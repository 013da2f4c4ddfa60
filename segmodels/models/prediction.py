"""What every model returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class QueryPrediction(NamedTuple):
    """Mask classification (MaskFormer, Cheng 2021): Q queries, each one class distribution and one mask."""

    class_logits: Tensor  # (B, Q, C + 1), the last is "no object"
    mask_logits: Tensor  # (B, Q, h, w)
    auxiliary: tuple[QueryPrediction, ...] = ()  # the same from earlier decoder layers, training mode only


class PointPrediction(NamedTuple):
    """Logits of N points of every image (PointRend, Kirillov 2020), for a loss on those points alone."""

    logits: Tensor  # (B, C, N)
    coordinates: Tensor  # (B, N, 2), x and y as shares of the width and the height, 0..1

    def pixels(self, height: int, width: int) -> Tensor:
        """``(B, N)`` int64: place, in a flattened map of ``height`` x ``width``, of the pixel that each point lies on."""
        size = self.coordinates.new_tensor((width, height))
        column, row = (self.coordinates * size).long().minimum(size.long() - 1).unbind(dim=-1)
        return row * width + column


class Prediction(NamedTuple):
    """Output of a model's ``forward(images)``, images float32 ``(B, in_channels, H, W)``."""

    logits: Tensor  # (B, C, H, W) before softmax, at the input's height and width
    auxiliary: tuple[Tensor, ...] = ()  # further logits (B, C, H, W) for deep supervision, training mode only
    queries: QueryPrediction | None = None  # mask classification models only
    image_logits: Tensor | None = None  # (B, K) classification of the whole image: joint models, and UNet 3+ with its classification-guided module
    reconstruction: Tensor | None = None  # (B, in_channels, H, W) images rebuilt from the segmentation: W-Net in training mode
    tasks: dict[str, Tensor] | None = None  # logits of further tasks by name, (B, K, H, W) or (B, K) for the whole image: multi-task UPerNet
    presence_logits: Tensor | None = None  # (B, C), which classes an image shows: EncNet in training mode
    points: PointPrediction | None = None  # PointRend in training mode


for _type in (QueryPrediction, PointPrediction, Prediction):  # so that torch.export.save can write a program that returns one
    _register_namedtuple(_type, serialized_type_name=f"segmodels.{_type.__name__}")

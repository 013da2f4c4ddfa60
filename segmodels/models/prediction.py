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


class Prediction(NamedTuple):
    """Output of a model's ``forward(images)``, images float32 ``(B, in_channels, H, W)``."""

    logits: Tensor  # (B, C, H, W) before softmax, at the input's height and width
    auxiliary: tuple[Tensor, ...] = ()  # further logits (B, C, H, W) for deep supervision, training mode only
    queries: QueryPrediction | None = None  # mask classification models only
    image_logits: Tensor | None = None  # (B, K) classification of the whole image: joint models, and UNet 3+ with its classification-guided module
    reconstruction: Tensor | None = None  # (B, in_channels, H, W) images rebuilt from the segmentation: W-Net in training mode
    tasks: dict[str, Tensor] | None = None  # logits of further tasks by name, (B, K, H, W) or (B, K) for the whole image: multi-task UPerNet


for _type in (QueryPrediction, Prediction):  # so that torch.export.save can write a program that returns one
    _register_namedtuple(_type, serialized_type_name=f"segmodels.{_type.__name__}")

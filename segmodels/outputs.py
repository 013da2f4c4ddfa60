"""What models return. An output reads itself: as probabilities, as objects, as a panoptic map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class PointPrediction(NamedTuple):
    """Logits of N points of every image (PointRend, Kirillov 2020), for a loss on those points alone."""

    logits: Tensor  # (B, C, N)
    coordinates: Tensor  # (B, N, 2), x and y as shares of the width and the height, 0..1

    def pixels(self, height: int, width: int) -> Tensor:
        """``(B, N)`` int64: place, in a flattened map of ``height`` x ``width``, of the pixel that each point lies
        on.
        """
        size = self.coordinates.new_tensor((width, height))
        column, row = (self.coordinates * size).long().minimum(size.long() - 1).unbind(dim=-1)
        return row * width + column


class PixelOutput(NamedTuple):
    """A class for every pixel, of images float32 ``(B, in_channels, *spatial)``.

    A key of ``extras`` is the name of the loss that reads the value: ``presence`` (B, C), ``object_presence`` (B, 2),
    ``image_label`` (B, K), ``points`` (PointPrediction), ``reconstruction`` (B, in_channels, *spatial), ``further``
    (name -> logits). ``presence``, ``points`` and ``reconstruction`` are there in training mode only.
    """

    logits: Tensor  # (B, C, *spatial) before softmax, at the input's size
    auxiliary: tuple[Tensor, ...] = ()  # further logits (B, C, *spatial) for deep supervision, training mode only
    extras: Mapping[str, Any] = {}

    def probabilities(self) -> Tensor:
        """``(B, C, *spatial)`` float32, each pixel's sum 1."""
        return self.logits.float().softmax(dim=1)

    def layers(self, weights: Sequence[float]) -> list[tuple[float, PixelOutput]]:
        """What losses see one at a time: the output itself with weight 1, then each auxiliary output with its weight.

        Args:
            weights: of the auxiliary outputs in their order; further ones take the last.
        """
        auxiliary = [(weight_of(weights, i), PixelOutput(logits)) for i, logits in enumerate(self.auxiliary)]
        return [(1.0, self), *auxiliary]


class QueryOutput(NamedTuple):
    """Mask classification (MaskFormer, Cheng 2021): Q queries, each one class distribution and one mask."""

    class_logits: Tensor  # (B, Q, C + 1), the last is "no object"
    mask_logits: Tensor  # (B, Q, h, w)
    auxiliary: tuple[QueryOutput, ...] = ()  # the same from earlier decoder layers, training mode only
    size: tuple[int, int] | None = None  # height and width of the input; None: those of the masks

    def layers(self, weights: Sequence[float]) -> list[tuple[float, QueryOutput]]:
        """The output itself with weight 1, then each earlier layer's with its weight (the last for further ones)."""
        return [(1.0, self), *((weight_of(weights, i), layer) for i, layer in enumerate(self.auxiliary))]


def weight_of(weights: Sequence[float], index: int) -> float:
    """``weights[index]``, or the last of them beyond their end."""
    return weights[min(index, len(weights) - 1)]


# so that torch.export.save can write a program that returns one
for _type in (PointPrediction, PixelOutput, QueryOutput):
    _register_namedtuple(_type, serialized_type_name=f"segmodels.{_type.__name__}")

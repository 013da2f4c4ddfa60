"""Keep pretrained layers as they are while the rest of a model trains."""

from __future__ import annotations

from typing import Self

from torch import nn

from segmodels.encoders.base import Encoder
from segmodels.errors import InputError


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its stored statistics and does not train; the same keys as ``BatchNorm2d``."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def freeze(encoder: Encoder, stages: int) -> None:
    """Stop training the first ``stages`` stages (the stem counts as one) and freeze their batch norms.

    Raises:
        InputError: the encoder has fewer stages.
    """
    groups = encoder.stages()
    if not 0 <= stages <= len(groups):
        raise InputError(
            f"stages to freeze is {stages}, expected 0 to {len(groups)}, the stages of {type(encoder).__name__}"
        )
    for module in (module for group in groups[:stages] for module in group):
        module.requires_grad_(False)
        freeze_batch_norm(module)


def freeze_batch_norm(module: nn.Module) -> None:
    """Make every ``BatchNorm2d`` in ``module`` (itself included) a ``FrozenBatchNorm2d``, in place: for batches too
    small for statistics.
    """
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = FrozenBatchNorm2d
            layer.requires_grad_(False).eval()

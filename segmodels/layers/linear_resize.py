"""Linear interpolation as a matrix product along each axis, whose gradient is deterministic on GPUs.

Torch's own has a gradient of atomic additions there, and its deterministic one is slow: indexing with accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_resize(features: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Interpolate ``(B, C, *spatial)`` to ``size`` (one number per spatial axis), linearly along each axis.

    The numbers are those of ``torch.nn.functional.interpolate`` (bilinear, trilinear) but for rounding; half precision
    is computed in float32 and rounded once. The memory format stays.
    """
    channels_last = features.dim() == 4 and features.stride(1) == 1
    with torch.autocast(features.device.type, enabled=False):
        result = features.movedim(1, -1) if channels_last else features
        result = result.float() if features.dtype in (torch.float16, torch.bfloat16) else result
        for axis, target in enumerate(size, start=1 if channels_last else 2):
            weights = _weights(result.shape[axis], target, align_corners, result)
            if axis == result.dim() - 1:
                result = result @ weights.T
            else:
                behind = result.shape[axis + 1 :]
                result = (weights @ result.flatten(axis + 1)).unflatten(-1, behind)
        result = result.to(features.dtype)
    return result.movedim(-1, 1) if channels_last else result


def _weights(source: int, target: int, align_corners: bool, like: Tensor) -> Tensor:
    """``(target, source)``: each row has the shares of the two nearest points, rounded as torch rounds them."""
    places = torch.arange(target, dtype=like.dtype, device=like.device)
    corners = places * ((source - 1) / max(target - 1, 1))
    places = (corners if align_corners else (places + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    points = torch.arange(source, dtype=like.dtype, device=like.device)
    return (1 - (places[:, None] - points).abs()).clamp(min=0)

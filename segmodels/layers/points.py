"""Single points of maps, and which of them to train on (PointRend, Kirillov 2020, 1912.08193)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def sample_points(maps: Tensor, coordinates: Tensor) -> Tensor:
    """Bilinear values of maps ``(B, C, h, w)`` at ``coordinates`` ``(B, N, 2)``, x and y as shares of width and height:
    ``(B, C, N)``, in float32.

    Beyond the centres of the outermost pixels they fade towards 0, as in the authors' code.
    """
    return functional.grid_sample(maps.float(), 2 * coordinates[:, :, None] - 1, align_corners=False)[..., 0]


def random_points(count: int, points: int, device: torch.device) -> Tensor:
    """Uniform coordinates ``(count, points, 2)``: x and y, 0..1. All points of training are drawn here."""
    return torch.rand(count, points, 2, device=device)


def training_points(
    uncertainty: Callable[[Tensor], Tensor],
    count: int,
    points: int,
    oversampling: float,
    importance: float,
    device: torch.device,
) -> Tensor:
    """Coordinates ``(count, points, 2)`` to train on: the share ``importance`` of them the most uncertain of
    ``oversampling`` times as many random ones, the others random (section 3.1).

    Args:
        uncertainty: of coordinates ``(count, N, 2)``, ``(count, N)``.
    """
    candidates = random_points(count, int(oversampling * points), device)
    uncertain = int(importance * points)
    chosen = uncertainty(candidates).topk(uncertain, dim=1).indices
    chosen = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, random_points(count, points - uncertain, device)], dim=1)

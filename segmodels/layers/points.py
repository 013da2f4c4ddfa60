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


def cell_centres(size: int, device: torch.device) -> Tensor:
    """The centres of ``size`` x ``size`` cells of a box, row by row, as shares of its width and height:
    ``(1, size * size, 2)``.
    """
    centres = (torch.arange(size, device=device) + 0.5) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=2).view(1, -1, 2)


def points_in_boxes(boxes: Tensor, shares: Tensor) -> Tensor:
    """The points at ``shares`` ``(K or 1, N, 2)`` of the width and height of boxes ``(K, 4)`` (left, top, right,
    bottom): x and y ``(K, N, 2)`` in the boxes' unit.
    """
    corners = boxes[:, None, :2], boxes[:, None, 2:]
    return corners[0] + shares * (corners[1] - corners[0])


def random_points(count: int, points: int, device: torch.device) -> Tensor:
    """Uniform coordinates ``(count, points, 2)``: x and y, 0..1. All points of training are drawn here."""
    return torch.rand(count, points, 2, device=device)


def least_certain(uncertainty: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """The pixels of the largest ``uncertainty`` ``(B, h, w)``, at most ``points``: their places in the flattened map
    ``(B, N)`` and the coordinates of their centres ``(B, N, 2)``.
    """
    height, width = uncertainty.shape[-2:]
    places = uncertainty.flatten(1).topk(torch.sym_min(height * width, points), dim=1).indices
    columns, rows = (places % width + 0.5) / width, (places // width + 0.5) / height
    return places, torch.stack([columns, rows], dim=2)


def replaced(maps: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Maps ``(B, C, h, w)`` with ``values`` ``(B, C, N)`` at ``places`` ``(B, N)`` of the flattened map."""
    return (
        maps.flatten(2)
        .scatter(2, places[:, None].expand(-1, maps.shape[1], -1), values.to(maps.dtype))
        .unflatten(2, maps.shape[-2:])
    )


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

"""From probabilities to a class map of any size, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

FLOATS_AT_ONCE = 2**22  # interpolated probabilities held at a time, 16 MB


def class_rows(bands: Iterable[Tensor], height: int, size: tuple[int, int], dtype: torch.dtype) -> Iterator[Tensor]:
    """The most probable class of every pixel, as rows (n, map width) from the top down on the bands' device, as soon as
    the probabilities that they depend on have arrived.

    Probabilities are interpolated bilinearly to the map's size *before* the choice of the class (half-pixel centres,
    as ``torch.nn.functional.interpolate`` with ``align_corners=False``), a few rows at a time, so that C x map height
    x map width floats never exist.

    Args:
        bands: probabilities (C, rows, w), from the top down.
        height: rows of all bands together.
        size: (height, width) of the class map.
        dtype: of the class map.
    """
    source = ((torch.arange(size[0], dtype=torch.float64) + 0.5) * height / size[0] - 0.5).clamp(min=0)
    low = source.long().clamp(max=height - 1)
    high = (low + (source > low)).clamp(max=height - 1)
    fraction = (source - low).float()
    first = written = 0  # source row of held[:, 0]; rows of the map that are done
    held: Tensor | None = None  # probabilities that rows of the map still to come need
    for band in bands:
        held = band if held is None else torch.cat([held, band], dim=1)
        arrived = first + held.shape[1]
        ready = int(torch.searchsorted(high, arrived))  # all rows of the map above this one have both their source rows
        rows_at_once = max(FLOATS_AT_ONCE // (len(band) * max(band.shape[2], size[1])), 1)
        for start in range(written, ready, rows_at_once):
            rows = slice(start, min(start + rows_at_once, ready))
            probabilities = _interpolated(held, low[rows] - first, high[rows] - first, fraction[rows], size[1])
            # several times as fast as argmax on a CPU, the same classes
            yield probabilities.max(dim=0).indices.to(dtype)
        written = ready
        needed = min(int(low[ready]), arrived) if ready < len(low) else arrived
        held = held[:, needed - first :].clone()
        first = needed


def _interpolated(held: Tensor, low: Tensor, high: Tensor, fraction: Tensor, width: int) -> Tensor:
    """Between the rows ``low`` and ``high`` of ``held`` (C, rows, w), ``fraction`` of the way, at ``width``: (C,
    len(low), width).
    """
    first, last = int(low[0]), int(high[-1])
    rows = held[:, first : last + 1]
    if rows.shape[2] != width:
        rows = functional.interpolate(rows[None].contiguous(), (rows.shape[1], width), mode="bilinear")[0]
    if torch.equal(low, high) and len(low) == rows.shape[1]:
        return rows
    return torch.lerp(
        rows[:, (low - first).to(rows.device, non_blocking=True)],
        rows[:, (high - first).to(rows.device, non_blocking=True)],
        fraction[:, None].to(rows.device, non_blocking=True),
    )

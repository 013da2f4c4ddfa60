"""From probabilities to a mask of any size, band by band."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FLOATS_AT_ONCE = 2**22  # interpolated probabilities held at a time, 16 MB


class MaskWriter:
    """Writes the most probable class of every pixel as soon as the probabilities that it depends on are there.

    Probabilities are interpolated bilinearly to the mask's size *before* the choice of the class (half-pixel centres, as
    ``torch.nn.functional.interpolate`` with ``align_corners=False``), a few rows at a time, so that C x mask height x mask width floats never exist.
    """

    def __init__(self, height: int, size: tuple[int, int], dtype: np.dtype) -> None:
        """``height``: rows of probabilities that will come; ``size``: (height, width) of the mask; ``dtype``: its type."""
        self.mask = np.empty(size, dtype=dtype)
        self._height = height
        self._rows: Tensor | None = None  # (C, rows, w): probabilities that rows of the mask still to be written need
        self._first = 0  # source row of self._rows[:, 0]
        self._written = 0
        source = ((torch.arange(size[0], dtype=torch.float64) + 0.5) * height / size[0] - 0.5).clamp(min=0)
        self._low = source.long().clamp(max=height - 1)
        self._high = (self._low + (source > self._low)).clamp(max=height - 1)
        self._fraction = (source - self._low).float()

    def write(self, band: Tensor) -> None:
        """The next rows of probabilities, (C, rows, w), from the top down."""
        self._rows = band if self._rows is None else torch.cat([self._rows, band], dim=1)
        arrived = self._first + self._rows.shape[1]
        ready = int(torch.searchsorted(self._high, arrived))  # all rows of the mask above this one have both their source rows
        rows_at_once = max(FLOATS_AT_ONCE // (len(band) * max(band.shape[2], self.mask.shape[1])), 1)
        for start in range(self._written, ready, rows_at_once):
            stop = min(start + rows_at_once, ready)
            self.mask[start:stop] = self._labels(start, stop).to("cpu").numpy()
        self._written = ready
        needed = min(int(self._low[ready]), arrived) if ready < len(self._low) else arrived
        self._rows = self._rows[:, needed - self._first :].clone()
        self._first = needed

    def _labels(self, start: int, stop: int) -> Tensor:
        """Classes (stop - start, mask width) of rows ``start`` to ``stop`` of the mask."""
        assert self._rows is not None
        low, high = self._low[start:stop], self._high[start:stop]
        first = int(low[0])
        rows = self._rows[:, first - self._first : int(high[-1]) + 1 - self._first]
        if rows.shape[2] != self.mask.shape[1]:
            rows = functional.interpolate(rows[None].contiguous(), (rows.shape[1], self.mask.shape[1]), mode="bilinear")[0]
        if self.mask.shape[0] != self._height:
            fraction = self._fraction[start:stop, None].to(rows.device)
            rows = torch.lerp(rows[:, (low - first).to(rows.device)], rows[:, (high - first).to(rows.device)], fraction)
        return rows.max(dim=0).indices  # several times as fast as argmax on a CPU, the same classes

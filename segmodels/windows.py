"""How images too large to predict at once are cut into windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segmodels.checks import LONGEST_SIDE, check, each, number, one_of, whole_number
from segmodels.errors import InputError

Weighting = Literal["gaussian", "uniform"]


@dataclass(frozen=True)
class SlidingWindow:
    """How an image is cut into windows.

    Attributes:
        size: window in pixels, (height, width) or (depth, height, width); the model sees exactly this size,
            smaller images are extended by their border pixels.
        overlap: least share of a window that it has in common with the next, 0 <= overlap < 1.
        weighting: weights of a window's pixels in the average of probabilities: ``gaussian`` (sigma an eighth of the
            window, as nnU-Net, Isensee 2021) trusts the centre more, where the model sees more context; ``uniform``
            trusts all alike. Objects are joined, not averaged, whatever the weighting.
        batch_size: windows predicted at once.
    """

    size: tuple[int, ...]
    overlap: float = 0.5
    weighting: Weighting = "gaussian"
    batch_size: int = 4

    def __post_init__(self) -> None:
        check(
            self,
            "sliding window",
            size=each(whole_number(1, LONGEST_SIDE)),
            overlap=number(0, below=1),
            weighting=one_of(Weighting),
            batch_size=whole_number(1, 2**16),
        )
        if len(self.size) not in (2, 3):
            raise InputError(
                f"size of the sliding window is {list(self.size)}, expected [height, width], or [depth, height,"
                " width] for volumes"
            )

    def check_axes(self, spatial_dims: int) -> None:
        """Raise InputError unless the window has as many axes as the images."""
        if len(self.size) != spatial_dims:
            raise InputError(
                f"sliding window is {list(self.size)} but images have {spatial_dims} axes, expected"
                f" {'[depth, height, width]' if spatial_dims == 3 else '[height, width]'}"
            )

"""Means of losses over the images of an epoch, of all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segmodels.training.learner import Losses


class LossSums:
    """Sums of losses over images, by name, and their number as ``images``.

    Losses stay on their device until the sums are asked for: adding them neither waits for a GPU nor gives it work.

    Args:
        sums: to begin with.
    """

    KEPT = 1000
    """Batches whose losses stay on the device at most."""

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self._sums = dict(sums or {})
        self._losses: dict[str, list[Tensor]] = {}
        self._images: dict[str, list[int]] = {}  # of the batches that these losses are means of

    def add(self, losses: Losses, images: int) -> None:
        """Add the losses of a batch, means over its images."""
        total = {} if losses.loss is None else {"loss": losses.loss}
        for name, value in {**total, **losses.terms}.items():
            self._losses.setdefault(name, []).append(value.detach())
            self._images.setdefault(name, []).append(images)
            if len(self._losses[name]) == self.KEPT:
                self._add_up()
        self._sums["images"] = self._sums.get("images", 0.0) + images

    def totals(self) -> dict[str, float]:
        """The sums so far; waits for the device once for each name."""
        self._add_up()
        return dict(self._sums)

    def _add_up(self) -> None:
        for name, losses in self._losses.items():
            values = torch.stack(losses).tolist()
            for value, images in zip(values, self._images[name], strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value * images
        self._losses, self._images = {}, {}


def mean_losses(prefix: str, sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means over the images of all processes, for the sums of each."""
    totals = total_sums(sums)
    images = totals.pop("images", 0.0)
    return {f"{prefix}/{name}": totals[name] / images for name in sorted(totals)}


def total_sums(sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sums of all processes, added up by name."""
    totals: dict[str, float] = {}
    for own in sums:
        for name, value in own.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals

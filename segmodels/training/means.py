"""Means of losses over the images of an epoch, of all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from segmodels.training.learner import Losses


def add_losses(sums: dict[str, Tensor], losses: Losses, images: int) -> None:
    """Add a batch's losses to running sums that stay on the device: no synchronisation per batch."""
    total = {} if losses.loss is None else {"loss": losses.loss}
    for name, value in {**total, **losses.terms}.items():
        value = value.detach().double() * images
        sums[name] = sums[name] + value if name in sums else value
    sums["images"] = sums["images"] + images if "images" in sums else torch.tensor(float(images), dtype=torch.float64)


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

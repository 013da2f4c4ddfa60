"""What a validation and an epoch of training are summed up to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from segmodels.metrics.scores import frequency_weighted_iou, mean_iou, mean_pixel_accuracy, pixel_accuracy


def validation_scores(counts: NDArray[np.int64]) -> dict[str, float]:
    """The scores of a confusion matrix that every validation reports."""
    return {
        "val/miou": float(mean_iou(counts)),
        "val/fwiou": float(frequency_weighted_iou(counts)),
        "val/pixel_accuracy": float(pixel_accuracy(counts)),
        "val/mean_pixel_accuracy": float(mean_pixel_accuracy(counts)),
    }


def add_losses(sums: dict[str, Tensor], loss: Tensor, terms: Mapping[str, Tensor], images: int) -> None:
    """Add a batch's losses to running sums that stay on the device: no synchronisation per batch."""
    for name, value in {"loss": loss, **terms}.items():
        value = value.detach().double() * images
        sums[name] = sums[name] + value if name in sums else value
    sums["images"] = sums["images"] + images if "images" in sums else torch.tensor(float(images), dtype=torch.float64)


def mean_losses(fabric: Fabric, prefix: str, sums: Mapping[str, float]) -> dict[str, float]:
    """Means over the images of all processes."""
    if not sums:
        return {}
    names = sorted(sums)
    total = sum_over_processes(fabric, torch.tensor([sums[name] for name in names], dtype=torch.float64))
    totals = dict(zip(names, total.tolist(), strict=True))
    images = totals.pop("images")
    return {f"{prefix}/{name}": value / images for name, value in totals.items()}


def sum_over_processes(fabric: Fabric, value: Tensor) -> Tensor:
    """On the CPU."""
    if fabric.world_size == 1:
        return value
    total = value.to(fabric.device, copy=True)
    torch.distributed.all_reduce(total)
    return total.cpu()

"""What the processes of a training tell each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric


def largest_of_all(fabric: Fabric, *values: float) -> list[float]:
    """The largest value that any process has, for each of ``values``: what all of them can decide by."""
    if fabric.world_size == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def of_all(fabric: Fabric, value: Any) -> list[Any]:
    """The value that each process has, in their order."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(values, value)
    return values

"""Exchange between the processes of a training: by their CPUs, so that none waits for the work of its GPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from segmodels.training.fabric import Fabric


def largest_of_all(fabric: Fabric, *values: float) -> list[float]:
    """The largest value that any process has, for each of ``values``: what all of them can decide by."""
    if fabric.world_size == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_hosts(fabric))
    return largest.tolist()


def of_all(fabric: Fabric, value: Any) -> list[Any]:
    """The value that each process has, in their order."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(values, value, group=_hosts(fabric))
    return values


def _hosts(fabric: Fabric) -> dist.ProcessGroup | None:
    """The group of all processes whose messages go from CPU to CPU; None is the default group."""
    return None if fabric.device.type == "cpu" else _gloo_beside(dist.group.WORLD)


@cache
def _gloo_beside(_world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")

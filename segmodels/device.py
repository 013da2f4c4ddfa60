"""Numbers that go to a device and places that come from it, with as few waits of the host for a GPU as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def constant(numbers: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A few numbers (nested, as in ``torch.tensor``) on a device, without waiting for a GPU."""
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU through pinned memory, so that a GPU is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def places(masks: Sequence[Tensor]) -> list[Tensor]:
    """Indices of the true entries of each mask ``(N,)``; waits once for a GPU, whatever the number of masks."""
    return [row for (row,) in places_by_row([mask[None] for mask in masks])]


def places_by_row(masks: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Indices of the true entries of each row of each mask ``(R, N)``, among all R * N; waits once for a GPU.

    On the meta device, where none is known, of all entries, so that the work of a detector can be counted.
    """
    if not masks or masks[0].is_meta:
        return [torch.arange(mask.numel(), device=mask.device).split(mask.shape[1]) for mask in masks]
    counts = iter(torch.cat([mask.sum(dim=1) for mask in masks]).tolist())
    found = []
    for mask in masks:
        own = [next(counts) for _ in mask]
        found.append(torch.nonzero_static(mask.flatten(), size=sum(own))[:, 0].split(own))
    return found

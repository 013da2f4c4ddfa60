"""Batches on the device, copied one ahead of their use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from segmodels.data.batches import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with images and targets on ``device``; the numbers of the samples stay in main memory.

    For a GPU each batch is copied by a stream of its own while the step before it is computed; neither the host nor the
    step waits, provided that the batches are in pinned memory.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _moved(batch, device)
        return
    stream, ahead = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            following = _moved(batch, device), stream.record_event()
        if ahead:
            yield _handed_over(*ahead)
        ahead = following
    if ahead:
        yield _handed_over(*ahead)


def _moved(batch: Batch, device: torch.device) -> Batch:
    images, targets = tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch[:2])
    return Batch(images, targets, batch.ids)


def _handed_over(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """The batch for the stream that computes: its memory is kept until that has used it."""
    computing = torch.cuda.current_stream()
    computing.wait_event(copied)
    for tensor in tree_leaves(batch[:2]):
        if isinstance(tensor, Tensor):
            tensor.record_stream(computing)
    return batch

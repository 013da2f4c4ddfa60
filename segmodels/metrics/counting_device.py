"""Counting of label pairs on the device the maps live on, without waiting for it."""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.device import to_device
from segmodels.errors import InputError
from segmodels.metrics.counting import out_of_range

COPIES = 64  # tables of few classes: additions to one cell wait for each other
MOST_CELLS = 1 << 19  # of all tables, 4 MiB; with many classes neighbours seldom meet


class DeviceCounts:
    """Counts on one device until they are read: adding a batch queues kernels and copies nothing back.

    Integer additions in any order give the same sum, so the result is deterministic. Whether all labels were in the
    range shows when the counts are read.

    Attributes:
        kernels: Triton's; None: torch counts.
        broken: whether Triton could not compile them in this process.
    """

    broken: ClassVar[bool] = False

    def __init__(self, num_classes: int, ignore_index: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.kernels = None if self.broken else compiled_for(device)
        width = num_classes**2 + 1  # the last cell is of what does not count
        copies = max(1, min(COPIES, MOST_CELLS // width))
        # one tensor, since each costs a launch: tables, and lowest and highest target, lowest and highest prediction,
        # ignored pixels left out
        self.numbers = torch.zeros(copies * width + 4, dtype=torch.int64, device=device)
        self.tables, self.extremes = self.numbers[:-4].view(copies, width), self.numbers[-4:]

    def add(self, prediction: Any, target: Any) -> None:
        """Label maps of integers and one shape, as in ``counting.count_pairs``; those on another device are brought
        here.

        Raises:
            InputError: not integers, or different shapes.
        """
        prediction, target = self.integers("prediction", prediction), self.integers("target", target)
        if prediction.shape != target.shape:
            raise InputError(
                f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}, expected the same:"
                " resize the prediction to the labels' size"
            )
        if target.numel() == 0:
            return
        prediction, target = prediction.reshape(-1).contiguous(), target.reshape(-1).contiguous()
        if not self.added_by_kernels(prediction, target):
            self.add_by_torch(prediction, target)

    def added_by_kernels(self, prediction: Tensor, target: Tensor) -> bool:
        if self.kernels is None:
            return False
        maps = (labels if labels.dtype in self.kernels.TYPES else labels.long() for labels in (prediction, target))
        try:
            self.kernels.count(*maps, self.tables, self.extremes, self.num_classes, self.ignore_index)
        except Exception as error:  # no C compiler, no place for its cache, ...: nothing was counted
            logging.getLogger(__name__).info("Triton cannot compile the counting of labels, torch counts: %s", error)
            self.kernels, DeviceCounts.broken = None, True
        return self.kernels is not None

    def add_by_torch(self, prediction: Tensor, target: Tensor) -> None:
        # int64: in uint8, comparing with -1 and multiplying by the number of classes would wrap around
        labels = torch.stack((target.long(), prediction.long()))
        ignored = labels[0] == self.ignore_index
        lowest, highest = labels.masked_fill_(ignored, 0).aminmax(dim=1)
        torch.minimum(self.extremes[::2], lowest, out=self.extremes[::2])
        torch.maximum(self.extremes[1::2], highest, out=self.extremes[1::2])
        counted = ~ignored & ((labels >= 0) & (labels < self.num_classes)).all(0)
        cells = torch.where(counted, labels[0] * self.num_classes + labels[1], self.num_classes**2)
        copies, width = self.tables.shape
        in_turn = cells[: len(cells) // copies * copies].view(-1, copies)
        in_turn += torch.arange(0, copies * width, width, device=cells.device)
        self.numbers.scatter_add_(0, cells, self.numbers.new_ones(1).expand_as(cells))

    def read(self) -> NDArray[np.int64]:
        """Counts ``(C, C)`` so far, rows = truth. Waits for the device.

        Raises:
            InputError: a batch held labels outside the range (the message names the lowest and highest).
        """
        numbers = torch.cat((self.tables.sum(0), self.extremes)).cpu().numpy()
        for name, extremes in (("target", numbers[-4:-2]), ("prediction", numbers[-2:])):
            if wrong := [int(label) for label in extremes if not 0 <= label < self.num_classes]:
                raise InputError(out_of_range(name, wrong, self.num_classes, self.ignore_index))
        return numbers[:-5].reshape(self.num_classes, self.num_classes).copy()

    def integers(self, name: str, labels: Any) -> Tensor:
        """``labels`` on this device."""
        labels = to_device(torch.as_tensor(labels), self.numbers.device)
        if labels.is_floating_point() or labels.is_complex():
            raise InputError(
                f"{name} has type {labels.dtype}, expected a label map of integers: take argmax over the classes first"
            )
        return labels


@cache
def compiled_for(device: torch.device) -> ModuleType | None:
    """Kernels for a device that Triton serves, where it is installed."""
    if device.type != "cuda":
        return None
    try:
        from segmodels.metrics import counting_triton
    except ImportError:
        return None
    return counting_triton

"""Counting of label pairs on the device the maps live on, without waiting for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmodels.errors import InputError
from segmodels.metrics.counting import out_of_range


class DeviceCounts:
    """Counts on one device until they are read: adding a batch queues kernels and copies nothing back.

    Integer additions in any order give the same sum, so the result is deterministic. Whether all labels were in the
    range shows when the counts are read.
    """

    def __init__(self, num_classes: int, ignore_index: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # the last cell takes what does not count: ignored pixels and labels outside the range
        self.table = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=device)
        # lowest and highest label of target and prediction, ignored pixels left out
        self.lowest = torch.zeros(2, dtype=torch.int64, device=device)
        self.highest = torch.zeros(2, dtype=torch.int64, device=device)

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
        labels = torch.stack((target.reshape(-1), prediction.reshape(-1)))
        ignored = labels[0] == self.ignore_index
        lowest, highest = labels.masked_fill_(ignored, 0).aminmax(dim=1)
        self.lowest, self.highest = torch.minimum(self.lowest, lowest), torch.maximum(self.highest, highest)
        counted = ~ignored & ((labels >= 0) & (labels < self.num_classes)).all(0)
        cells = torch.where(counted, labels[0] * self.num_classes + labels[1], self.num_classes**2)
        self.table.scatter_add_(0, cells, self.table.new_ones(1).expand_as(cells))

    def read(self) -> NDArray[np.int64]:
        """Counts ``(C, C)`` so far, rows = truth. Waits for the device.

        Raises:
            InputError: a batch held labels outside the range (the message names the lowest and highest).
        """
        for name, lowest, highest in zip(
            ("target", "prediction"), self.lowest.tolist(), self.highest.tolist(), strict=True
        ):
            if wrong := [label for label in (lowest, highest) if not 0 <= label < self.num_classes]:
                raise InputError(out_of_range(name, wrong, self.num_classes, self.ignore_index))
        return self.table[:-1].reshape(self.num_classes, self.num_classes).cpu().numpy().copy()

    def integers(self, name: str, labels: Any) -> Tensor:
        """``labels`` as int64 on this device: in uint8, comparing with -1 and multiplying by the number of classes
        would wrap around.
        """
        labels = torch.as_tensor(labels, device=self.table.device)
        if labels.is_floating_point() or labels.is_complex():
            raise InputError(
                f"{name} has type {labels.dtype}, expected a label map of integers: take argmax over the classes first"
            )
        return labels.long()

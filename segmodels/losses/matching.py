"""Predictions and true segments in pairs: costs leave the device once for all of a step, the pairs return once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from segmodels.device import to_device
from segmodels.tasks.targets import Segments


@dataclass(frozen=True)
class Truth:
    """The segments of a batch on its device: K places per image, of which the present ones hold a segment."""

    labels: Tensor  # (B, K) int64, class of each segment
    present: Tensor  # (B, K) bool
    valid: Tensor  # (B, H, W) bool, False where ignored
    masks: Sequence[Tensor]  # of each image: bool (K, H, W), or its class map (H, W), where place k is the class k

    @classmethod
    def of_classes(cls, target: Tensor, num_classes: int, ignore_index: int) -> Truth:
        """Each class of an image as one segment: train ids ``(B, H, W)``."""
        valid = target != ignore_index
        cells = torch.where(valid, target.long(), num_classes).flatten(1)
        present = valid.new_zeros(len(target), num_classes + 1).scatter_(1, cells, True)[:, :num_classes]
        labels = torch.arange(num_classes, device=target.device).expand_as(present)
        return cls(labels, present, valid, list(target))

    @classmethod
    def of_segments(cls, segments: Sequence[Segments]) -> Truth:
        """Crowds are not single objects: no prediction is matched with them, and their pixels are ignored."""
        own = [torch.ones_like(each.labels).bool() if each.crowd is None else ~each.crowd for each in segments]
        masks = [each.masks for each in segments]
        valid = [
            each.valid if each.crowd is None else each.valid & (_union(each.masks, alone) | ~each.masks.any(dim=0))
            for each, alone in zip(segments, own, strict=True)
        ]
        labels = pad_sequence([each.labels for each in segments], batch_first=True)
        return cls(labels, pad_sequence(own, batch_first=True), torch.stack(valid), masks)

    def masks_of(self, image: int, places: Tensor) -> Tensor:
        """``(N, H, W)`` bool."""
        masks = self.masks[image]
        return masks.index_select(0, places) if masks.ndim == 3 else masks == places[:, None, None]

    def at(self, size: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Masks ``(B, K, h * w)`` without ignored pixels and valid pixels ``(B, 1, h * w)``, as numbers 0 or 1 at the
        nearest pixels of a smaller map.
        """
        valid = _nearest(self.valid, size).flatten(1).to(dtype)[:, None]
        if self.masks[0].ndim == 3:
            masks = pad_sequence([_nearest(each, size).flatten(1) for each in self.masks], batch_first=True)
        else:
            masks = _nearest(torch.stack(list(self.masks)), size).flatten(1)[:, None] == self.labels[..., None]
        return masks.to(dtype) * valid, valid

    def at_points(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """As ``at``, at points ``(B, P, 2)`` of each image: bilinear shares of the masks ``(B, K, P)``, 0..1, and valid
        points ``(B, 1, P)``.
        """
        known = torch.arange(self.labels.shape[1], device=self.labels.device)
        places = [known if own.ndim == 2 else known[: len(own)] for own in self.masks]
        shares = [self.shares(i, own, coordinates[i]) for i, own in enumerate(places)]
        valid = self.counted(torch.arange(len(coordinates), device=coordinates.device), coordinates)[:, None]
        return pad_sequence(shares, batch_first=True) * valid, valid

    def shares(self, image: int, places: Tensor, coordinates: Tensor) -> Tensor:
        """Bilinear shares ``(N, P)`` of N segments of an image at points ``(P, 2)``, or ``(N, P, 2)`` of each; beyond
        the centres of the outermost pixels they fade towards 0.
        """
        height, width = self.valid.shape[1:]
        x, y = coordinates[..., 0] * width - 0.5, coordinates[..., 1] * height - 0.5
        left, top = x.floor(), y.floor()
        line = width + 2  # of a framed mask
        index = (top.long() + 1) * line + left.long() + 1
        total = torch.zeros((), device=x.device)
        for below, down in ((0, 1 - (y - top)), (line, y - top)):
            for beside, across in ((0, 1 - (x - left)), (1, x - left)):
                total = total + self._covers(image, places, index + (below + beside)) * (down * across)
        return total

    def counted(self, images: Tensor, coordinates: Tensor) -> Tensor:
        """``(N, P)``: 1 for points ``(N, P, 2)`` in images ``(N,)`` none of whose four nearest pixels is ignored, else
        0.
        """
        if self._all_valid:
            return torch.ones(coordinates.shape[:-1], device=coordinates.device)
        height, width = self.valid.shape[1:]
        # of the place between four pixels that is nearest to a point
        column, row = (coordinates[..., 0] * width + 0.5).long(), (coordinates[..., 1] * height + 0.5).long()
        index = row.clamp(max=height) * (width + 1) + column.clamp(max=width)
        return 1 - self._ignored.take(images[:, None] * ((height + 1) * (width + 1)) + index)

    def _covers(self, image: int, places: Tensor, index: Tensor) -> Tensor:
        """Whether segments ``(N,)`` cover the pixels ``index`` ``(P,)`` or ``(N, P)`` of the flattened framed image."""
        masks = self._framed[image]
        if masks.ndim == 2:
            return masks.take(index) == places[:, None]
        return masks.take(places[:, None] * (masks.shape[1] * masks.shape[2]) + index)

    @cached_property
    def _all_valid(self) -> bool:
        """Whether no pixel is ignored; False on other devices than the CPU, which would have to be waited for."""
        return self.valid.device.type == "cpu" and bool(self.valid.all())

    @cached_property
    def _framed(self) -> list[Tensor]:
        """The masks in a frame of one pixel, which none covers."""
        return [
            F.pad(own, (1,) * 4) if own.ndim == 3 else F.pad(own.int(), (1,) * 4, value=self.labels.shape[1])
            for own in self.masks
        ]

    @cached_property
    def _ignored(self) -> Tensor:
        """``(B, H + 1, W + 1)``: 1 at places between four pixels of which one is ignored, else 0."""
        return F.max_pool2d(F.pad((~self.valid).float()[:, None], (1,) * 4), 2, stride=1)[:, 0]


class Pairs(NamedTuple):
    """Matched predictions and segments of a batch, N in all, image by image."""

    image: Tensor  # (N,) int64
    prediction: Tensor  # (N,) int64, its place among the predictions of all images, image by image
    place: Tensor  # (N,) int64, the segment's place in ``Truth``
    counts: list[int]  # pairs of each image
    segments: int  # of the batch, matched or not


def cheapest(costs: Sequence[Tensor], present: Tensor) -> list[Pairs]:
    """The cheapest assignment of predictions to present segments for every image and layer.

    The device is waited for once, for the costs of all layers.

    Args:
        costs: of each layer, ``(B, Q, K)``.
        present: ``(B, K)`` bool.
    """
    from scipy.optimize import linear_sum_assignment

    fetched = torch.cat([*(cost.flatten() for cost in costs), present.flatten().to(costs[0])]).cpu()
    *matrices, held = fetched.split([*(cost.numel() for cost in costs), present.numel()])
    places = [row.nonzero()[0] for row in held.view(present.shape).numpy()]
    found = []
    for cost, matrix in zip(costs, matrices, strict=True):
        for image, (own, known) in enumerate(zip(matrix.view(cost.shape).numpy(), places, strict=True)):
            rows, columns = linear_sum_assignment(own[:, known])
            found.append(np.stack([np.full_like(rows, image), image * len(own) + rows, known[columns]]))
    lengths = [pairs.shape[1] for pairs in found]
    everything = to_device(torch.from_numpy(np.concatenate(found, axis=1)), present.device)
    images, segments = len(present), sum(map(len, places))
    counts = [lengths[start : start + images] for start in range(0, len(lengths), images)]
    of_layers = everything.split([sum(own) for own in counts], dim=1)
    return [Pairs(ends[0], ends[1], ends[2], own, segments) for ends, own in zip(of_layers, counts, strict=True)]


def _union(masks: Tensor, chosen: Tensor) -> Tensor:
    return (masks & chosen[:, None, None]).any(dim=0)


def _nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps ``(N, H, W)`` of masks or of labels below 2^24, as float32 ``(N, h, w)``."""
    return F.interpolate(maps[:, None].float(), size=tuple(size), mode="nearest")[:, 0]

"""The true objects of a batch, and which of them a box stands for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from segmodels.device import constant, places
from segmodels.layers.nms import PAIRS, box_area, box_intersection, box_iou

BACKGROUND, UNDECIDED = -1, -2
"""In the place of an object: for a box without one, and for a box that is not trained on."""

IN_CROWD = 0.5
"""Share of a box's area in a crowd from which it is no background."""


class Objects(NamedTuple):
    """The true objects of a batch of B images, at most G in one (G from 1); behind an image's own follow boxes without
    area.
    """

    boxes: Tensor  # (B, G, 4) left, top, right, bottom in pixels
    labels: Tensor  # (B, G) int64, places among the model's classes
    masks: list[Tensor]  # bool, (own, H, W) of each image
    crowds: Tensor  # (B, N, 4) boxes in which single objects are not told apart

    @classmethod
    def of(
        cls, boxes: Sequence[Tensor], labels: Sequence[Tensor], masks: Sequence[Tensor], crowds: Sequence[Tensor]
    ) -> Objects:
        """Of each image: boxes ``(own, 4)`` with an area, labels ``(own,)``, masks, and boxes of crowds."""
        padded = [pad_sequence(list(own), batch_first=True) for own in (boxes, labels, crowds)]
        if not padded[0].shape[1]:
            padded[:2] = padded[0].new_zeros(len(boxes), 1, 4), padded[1].new_zeros(len(boxes), 1)
        return cls(padded[0], padded[1], list(masks), padded[2])

    def among_all(self, images: Tensor, owners: Tensor) -> Tensor:
        """Places among the masks of all images, of objects ``owners`` ``(N,)`` of ``images`` ``(N,)``."""
        firsts = accumulate((len(own) for own in self.masks[:-1]), initial=0)
        return constant(list(firsts), owners.device, torch.int64)[images] + owners


def objects_of(segments: Sequence[Any], detected: Tensor | None = None) -> Objects:
    """The true objects, of the segments of targets of each image.

    Args:
        detected: ``(C,)`` place of each class among those that the model detects, negative for others; None: the
            segments' labels are such places.
    """
    masks = [own.masks for own in segments]
    boxes = [own.boxes for own in segments]
    labels = [own.labels if detected is None else detected[own.labels] for own in segments]
    if detected is None and all(own.crowd is None for own in segments):  # the usual case needs no wait
        return Objects.of(boxes, labels, masks, [own[:0] for own in boxes])
    crowds = [
        torch.zeros_like(label, dtype=torch.bool) if own.crowd is None else own.crowd
        for own, label in zip(segments, labels, strict=True)
    ]
    known = list(zip(labels, crowds, strict=True))
    rows = places([(label >= 0) & ~crowd for label, crowd in known] + [(label >= 0) & crowd for label, crowd in known])
    single, crowded = rows[: len(known)], rows[len(known) :]
    return Objects.of(
        [own[row] for own, row in zip(boxes, single, strict=True)],
        [own[row] for own, row in zip(labels, single, strict=True)],
        [own[row] for own, row in zip(masks, single, strict=True)],
        [own[row] for own, row in zip(boxes, crowded, strict=True)],
    )


def match(truth: Objects, boxes: Tensor, high: float, low: float, every: bool = False) -> Tensor:
    """The object of each box, its place in its image, or ``BACKGROUND``, or ``UNDECIDED``: ``(B, N)`` int64.

    A box stands for the object that it overlaps most if the IoU is at least ``high``. It is background if all are below
    ``low`` and it does not lie in a crowd.

    Args:
        boxes: ``(B, N, 4)``, or ``(N, 4)``, the same in all images.
        every: the boxes with the largest IoU of an object stand for an object too, however small the IoU is.
    """
    images, most = truth.boxes.shape[:2]
    boxes = boxes.expand(images, -1, -1)
    together = 1 if boxes.device.type == "cpu" else max(1, PAIRS // max(1, most * boxes.shape[1]))
    parts = zip(*(own.split(together) for own in (truth.boxes, truth.crowds, boxes)), strict=True)
    found = [_matched(objects, crowds, own, high, low, every) for objects, crowds, own in parts]
    return torch.cat(found)


def _matched(objects: Tensor, crowds: Tensor, boxes: Tensor, high: float, low: float, every: bool) -> Tensor:
    """As ``match``, of objects ``(B, G, 4)``."""
    iou = box_iou(objects, boxes)
    best, owner = iou.max(dim=1)
    found = torch.where(best >= high, owner, torch.where(best < low, BACKGROUND, UNDECIDED))
    if every:
        nearest = (iou == iou.amax(dim=2, keepdim=True)) & (iou > 0)
        found = torch.where(nearest.any(dim=1), owner, found)
    if crowds.shape[1]:
        covered = box_intersection(boxes, crowds) / box_area(boxes).clamp(min=1e-6)[..., None]
        found = torch.where((found == BACKGROUND) & (covered > IN_CROWD).any(dim=2), UNDECIDED, found)
    return found

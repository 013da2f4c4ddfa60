"""Which boxes the heads of a detector in two stages are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segmodels.device import places_by_row
from segmodels.layers.anchors import encode
from segmodels.layers.matching import BACKGROUND, UNDECIDED, Objects, match
from segmodels.layers.nms import box_area


class Samples(NamedTuple):
    """Outputs of one head for its samples of all images of a batch, and their targets."""

    scores: Tensor  # (N,) objectness, or (N, C + 1) logits with the background first
    labels: Tensor  # (N,) 0 or 1, or classes 0..C, 0 the background
    deltas: Tensor  # (P, 4) coded boxes of the positive ones ...
    true_deltas: Tensor  # ... and their objects'


class Wanted(NamedTuple):
    """What ``sample`` is asked for."""

    matched: Tensor  # (B, N) int64, as ``match`` returns it
    boxes: int  # of an image
    share: float  # of those that stand for an object, at most


class Drawn(NamedTuple):
    """Random boxes of each image, as places among all B * N."""

    positive: list[Tensor]  # (P,) int64, that stand for an object
    background: list[Tensor]  # (M,) int64


def sample(*wanted: Wanted) -> list[Drawn]:
    """Random boxes that stand for an object, and of the background, which fill up to the count. Waits once for a GPU,
    whatever the number of questions.
    """
    masks = [mask for matched, _, _ in wanted for mask in (matched >= 0, matched == BACKGROUND)]
    rows = iter(places_by_row(masks))
    found = []
    for _, boxes, share in wanted:
        positive = [_drawn(row, int(boxes * share)) for row in next(rows)]
        background = [_drawn(row, boxes - len(own)) for row, own in zip(next(rows), positive, strict=True)]
        found.append(Drawn(positive, background))
    return found


def _drawn(candidates: Tensor, count: int) -> Tensor:
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]


class Proposals(NamedTuple):
    """Boxes of a batch that may hold an object, best first."""

    boxes: Tensor  # (B, P, 4) left, top, right, bottom in pixels
    usable: Tensor  # (B, P) bool, others only fill the tensor

    def of_images(self) -> list[Tensor]:
        """The usable ones of each image ``(N, 4)``; waits for a GPU."""
        (rows,) = places_by_row([self.usable])
        return [self.boxes.flatten(0, 1)[row] for row in rows]


class Candidates(NamedTuple):
    """Boxes from which a second stage's training draws: proposals, and behind them the objects' own."""

    boxes: Tensor  # (B, N, 4)
    matched: Tensor  # (B, N) int64, see ``match``
    proposals: int  # of the N

    @classmethod
    def of(cls, proposals: Proposals, truth: Objects, overlap: float) -> Candidates:
        """A box stands for an object if their IoU is at least ``overlap``."""
        boxes = torch.cat([proposals.boxes, truth.boxes.to(proposals.boxes.dtype)], dim=1)
        usable = torch.cat([proposals.usable, box_area(truth.boxes) > 0], dim=1)
        matched = match(truth, boxes, overlap, overlap).masked_fill(~usable, UNDECIDED)
        return cls(boxes, matched, proposals.boxes.shape[1])

    def wanted(self, count: int) -> Wanted:
        """Boxes to train on, ``count`` of an image, at most a quarter of them of objects."""
        return Wanted(self.matched, count, 0.25)

    def chosen(self, drawn: Drawn, truth: Objects) -> Chosen:
        """Those that were drawn."""
        pieces = list(zip(drawn.positive, drawn.background, strict=True))
        rows = torch.cat([row for piece in pieces for row in piece])
        images, place = rows // self.boxes.shape[1], rows % self.boxes.shape[1]
        owners = self.matched.flatten()[rows]
        labels = truth.labels[images, owners.clamp(min=0)] + 1
        return Chosen(
            self.boxes.flatten(0, 1)[rows],
            torch.where(owners >= 0, labels, 0),
            owners,
            images,
            place >= self.proposals,
            [(len(positive), len(background)) for positive, background in pieces],
        )


class Chosen(NamedTuple):
    """Boxes that a second stage is trained on, K in all: image by image, in each those of objects first."""

    every: Tensor  # (K, 4) left, top, right, bottom in pixels
    labels: Tensor  # (K,) int64, classes: 0 is the background, 1 the first class
    owners: Tensor  # (K,) int64, the object of each in its image, or negative
    images: Tensor  # (K,) int64
    true: Tensor  # (K,) bool, whether it is an object's own box and no proposal
    counts: list[tuple[int, int]]  # of each image, boxes of objects and of the background

    @property
    def boxes(self) -> list[Tensor]:
        """``(N, 4)`` of each image."""
        return self.of_each(self.every)

    def of_each(self, values: Tensor) -> list[Tensor]:
        """Values ``(K, ...)`` of the boxes of each image."""
        return list(values.split([sum(count) for count in self.counts]))

    def of_objects(self) -> BoxesOfObjects:
        """Without the background."""
        rows = self._positive(torch.arange(len(self.every), device=self.every.device))
        boxes = [own[:count] for own, (count, _) in zip(self.boxes, self.counts, strict=True)]
        spare = [own[:1] for own in self.boxes]
        owners, labels, images = map(self._positive, (self.owners, self.labels, self.images))
        return BoxesOfObjects(boxes, owners, labels - 1, images, rows, spare)

    def _positive(self, values: Tensor) -> Tensor:
        pieces = zip(self.of_each(values), self.counts, strict=True)
        return torch.cat([own[:count] for own, (count, _) in pieces])


class BoxesOfObjects(NamedTuple):
    """Sampled boxes that stand for an object, P in all images of a batch."""

    boxes: list[Tensor]  # (N, 4) of each image
    owners: Tensor  # (P,) int64, which object of its image
    labels: Tensor  # (P,) int64, places among the classes
    images: Tensor  # (P,) int64
    rows: Tensor  # (P,) int64, places among all chosen boxes
    spare: list[Tensor]  # (0 or 1, 4) some box of each image, by which a layer gets a gradient where P is 0

    def deltas(self, truth: Objects, weights: Sequence[float]) -> Tensor:
        """The objects' own boxes relative to these, ``(P, 4)``."""
        return encode(truth.boxes[self.images, self.owners], torch.cat(self.boxes), weights)

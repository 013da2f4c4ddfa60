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


class Draw(NamedTuple):
    """Random boxes, K of each image: first those of objects, then background, then others that only fill the tensor."""

    rows: Tensor  # (B, K) int64, places among the boxes of their image
    owners: Tensor  # (B, K) int64, the object of each in its image, BACKGROUND, or UNDECIDED of those that fill


def draw(matched: Tensor, count: int, share: float) -> Draw:
    """Random boxes of objects, and of the background, which fill up to the count. No wait for a GPU.

    Args:
        matched: ``(B, N)`` int64, as ``match`` returns it.
        count: boxes of an image.
        share: of those that stand for an object, at most.
    """
    chances = torch.rand(matched.shape, device=matched.device)
    positive = _best(chances.masked_fill(matched < 0, -1), int(count * share))
    background = _best(chances.masked_fill(matched != BACKGROUND, -1), count)
    found = positive.values >= 0
    left = count - found.sum(dim=1, keepdim=True)
    filling = (background.values >= 0) & (torch.arange(background.values.shape[1], device=left.device) < left)
    used, rows = torch.cat([found, filling], dim=1), torch.cat([positive.indices, background.indices], dim=1)
    order = used.byte().argsort(dim=1, descending=True, stable=True)[:, :count]
    rows = rows.gather(1, order)
    return Draw(rows, matched.gather(1, rows).masked_fill(~used.gather(1, order), UNDECIDED))


def _best(chances: Tensor, count: int) -> torch.return_types.topk:
    return chances.topk(min(count, chances.shape[1]), dim=1)


class Drawn(NamedTuple):
    """The M boxes of a draw of all images that do not only fill it: image by image, in each those of objects first."""

    images: Tensor  # (M,) int64
    rows: Tensor  # (M,) int64, places among the boxes of their image
    owners: Tensor  # (M,) int64, the object of each in its image, or negative
    places: Tensor  # (M,) int64, among all B * K of the draw
    counts: list[tuple[int, int]]  # of each image, boxes of objects and of the background

    def of_each(self, values: Tensor) -> list[Tensor]:
        """Values ``(M, ...)`` of the boxes of each image."""
        return list(values.split([sum(count) for count in self.counts]))

    def of_objects(self, values: Tensor) -> Tensor:
        """Those of values ``(M, ...)`` whose box stands for an object."""
        pieces = zip(self.of_each(values), self.counts, strict=True)
        return torch.cat([own[:count] for own, (count, _) in pieces])


def drawn_of(*draws: Draw) -> list[Drawn]:
    """The boxes of draws; waits once for a GPU, whatever their number."""
    places = iter(places_by_row([mask for _, owners in draws for mask in (owners != UNDECIDED, owners >= 0)]))
    found = []
    for rows, owners in draws:
        used, positive = next(places), next(places)
        every = torch.cat(used)
        counts = [(len(own), len(each) - len(own)) for each, own in zip(used, positive, strict=True)]
        found.append(Drawn(every // rows.shape[1], rows.flatten()[every], owners.flatten()[every], every, counts))
    return found


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

    def draw(self, count: int) -> Draw:
        """Boxes to train on, ``count`` of an image, at most a quarter of them of objects."""
        return draw(self.matched, count, 0.25)

    def chosen(self, found: Drawn, truth: Objects) -> Chosen:
        """Those that were drawn."""
        labels = truth.labels[found.images, found.owners.clamp(min=0)] + 1
        return Chosen(self.boxes[found.images, found.rows], torch.where(found.owners >= 0, labels, 0), found)


class Chosen(NamedTuple):
    """Boxes that a second stage is trained on, M in all."""

    every: Tensor  # (M, 4) left, top, right, bottom in pixels
    labels: Tensor  # (M,) int64, classes: 0 is the background, 1 the first class
    drawn: Drawn

    @property
    def boxes(self) -> list[Tensor]:
        """``(N, 4)`` of each image."""
        return self.drawn.of_each(self.every)

    def of_objects(self) -> BoxesOfObjects:
        """Without the background."""
        found, boxes = self.drawn, self.boxes
        objects = [own[:count] for own, (count, _) in zip(boxes, found.counts, strict=True)]
        every = torch.arange(len(self.every), device=self.every.device)
        values = (found.owners, self.labels - 1, found.images, every)
        owners, labels, images, rows = map(found.of_objects, values)
        return BoxesOfObjects(objects, owners, labels, images, rows, [own[:1] for own in boxes])


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

"""The region proposal network (Ren 2015, 1506.01497) on a feature pyramid (Lin 2016, 1612.03144, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.layers.anchors import anchors, clip, decode, encode
from segmodels.layers.blocks import ConvNormAct
from segmodels.layers.matching import Objects, match
from segmodels.layers.nms import kept_of_groups
from segmodels.layers.sampling import Draw, Drawn, Proposals, Samples, draw

CODING = (1.0, 1.0, 1.0, 1.0)
SMALLEST = 1e-3  # side of a proposal, pixels


class Anchors(NamedTuple):
    """Anchors of all maps, the same in all images, and what is said of each."""

    boxes: Tensor  # (A, 4)
    scores: Tensor  # (B, A) logits of objectness
    deltas: Tensor  # (B, A, 4) coded boxes


class RegionProposals(nn.Module):
    """Boxes that may hold an object, whatever its class: of every anchor its objectness and a box relative to it.

    Args:
        channels: of the maps.
        sides: of each map, the side of a square anchor in pixels.
        ratios: of the anchors, height over width.
        depth: 3x3 convolutions before the outputs.
        best: anchors of each map that become proposals, those with the best objectness, in training and in evaluation.
        most: proposals of an image that remain, in training and in evaluation.
        overlap: largest IoU of two proposals of one map.
        samples: anchors of an image to train on, at most half of them positive.
    """

    def __init__(
        self,
        channels: int,
        sides: Sequence[float],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        depth: int = 1,
        best: tuple[int, int] = (2000, 1000),
        most: tuple[int, int] = (2000, 1000),
        overlap: float = 0.7,
        samples: int = 256,
    ) -> None:
        super().__init__()
        self.sides = tuple(sides)
        self.ratios = tuple(ratios)
        self.best = best
        self.most = most
        self.overlap = overlap
        self.samples = samples
        self.convs = nn.Sequential(*(ConvNormAct(channels, channels, norm=None) for _ in range(depth)))
        self.objectness = nn.Conv2d(channels, len(self.ratios), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(self.ratios), 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(
        self, pyramid: Sequence[Tensor], padded: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Proposals, Anchors]:
        """Proposals, without gradient, and what they were made of.

        Args:
            padded, size: height and width of the images with and without padding on the right and below.
        """
        features = [self.convs(x) for x in pyramid]
        scores = [_by_anchor(self.objectness(x), 1)[..., 0] for x in features]
        deltas = [_by_anchor(self.deltas(x), 4) for x in features]
        shapes = [(x.shape[2], x.shape[3]) for x in pyramid]
        boxes = anchors(shapes, padded, self.sides, self.ratios, pyramid[0].device)
        proposals = self._proposals(boxes, scores, deltas, size)
        return proposals, Anchors(torch.cat(boxes), torch.cat(scores, dim=1), torch.cat(deltas, dim=1))

    def draw(self, found: Anchors, truth: Objects) -> Draw:
        """Anchors to train on, at most half of them of objects."""
        return draw(match(truth, found.boxes, high=0.7, low=0.3, every=True), self.samples, 0.5)

    def samples_of(self, found: Anchors, drawn: Drawn, truth: Objects) -> Samples:
        """Samples to train on, of those drawn."""
        scores = found.scores[drawn.images, drawn.rows]
        images, rows, owners = map(drawn.of_objects, (drawn.images, drawn.rows, drawn.owners))
        return Samples(
            scores,
            (drawn.owners >= 0).to(scores.dtype),
            found.deltas[images, rows],
            encode(truth.boxes[images, owners], found.boxes[rows], CODING),
        )

    @torch.no_grad()
    def _proposals(
        self, boxes: Sequence[Tensor], scores: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int]
    ) -> Proposals:
        turn = 0 if self.training else 1
        found = []
        for own_boxes, own_scores, own_deltas in zip(boxes, scores, deltas, strict=True):
            top = own_scores.topk(min(self.best[turn], own_scores.shape[1]), dim=1)
            chosen = own_deltas.gather(1, top.indices[..., None].expand(-1, -1, 4)).float()
            box = decode(chosen.flatten(0, 1), own_boxes[top.indices].flatten(0, 1), CODING)
            found.append((clip(box, size).view_as(chosen), top.values.sigmoid()))
        kept = self._kept([box for box, _ in found])
        every, score = (torch.cat(values, dim=1) for values in zip(*found, strict=True))
        order = score.masked_fill(~kept, -1).argsort(dim=1, descending=True, stable=True)[:, : self.most[turn]]
        return Proposals(every.gather(1, order[..., None].expand(-1, -1, 4)), kept.gather(1, order))

    def _kept(self, boxes: Sequence[Tensor]) -> Tensor:
        """Which boxes ``(B, n, 4)`` of each map, best first, are large enough and remain: ``(B, Σn)`` bool."""
        most = max(own.shape[1] for own in boxes)
        padded = torch.cat([functional.pad(own, (0, 0, 0, most - own.shape[1])) for own in boxes])
        large = (padded[..., 2:] - padded[..., :2] >= SMALLEST).all(dim=2)
        kept = kept_of_groups(padded, large, self.overlap).split(len(boxes[0]))
        return torch.cat([own[:, : box.shape[1]] for own, box in zip(kept, boxes, strict=True)], dim=1)


def _by_anchor(outputs: Tensor, numbers: int) -> Tensor:
    """Outputs ``(B, A * numbers, h, w)`` in the order of the anchors, ``(B, h * w * A, numbers)``."""
    return outputs.unflatten(1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3)

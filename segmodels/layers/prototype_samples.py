"""Training samples of a one-stage detector with prototypes (YOLACT, Bolya 2019, 1904.02689, sections 3.3, 4 and 5):
anchors that stand for objects, three times as many of the background, masks inside the true boxes, and classes of
places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segmodels.device import constant, places_by_row
from segmodels.layers.anchors import encode
from segmodels.layers.matching import BACKGROUND, Objects, match
from segmodels.layers.sampling import Samples

CODING = (10.0, 10.0, 5.0, 5.0)
HIGH, LOW = 0.5, 0.4  # IoU of an anchor with its object, and below which it is background
NEGATIVES = 3  # of the background for each anchor of an object, those with the largest loss


def prototype_samples(
    classes: Tensor,
    deltas: Tensor,
    coefficients: Tensor,
    prototypes: Tensor,
    anchors: Tensor,
    truth: Objects,
) -> tuple[Samples, tuple[Tensor, Tensor]]:
    """Samples over all images of a batch: of classes and boxes, and of masks, logits ``(N, h, w)`` and true shares of
    the prototypes' cells, negative outside the true boxes.

    Args:
        classes, deltas, coefficients: of the anchors, ``(B, A, C + 1)`` with the background first, ``(B, A, 4)`` and
            ``(B, A, P)``.
        prototypes: ``(B, P, h, w)`` at stride 4.
        anchors: ``(A, 4)``.
    """
    owners = match(truth, anchors, HIGH, LOW, every=True)
    (rows,) = places_by_row([owners >= 0])
    positive = torch.cat(rows)
    image, anchor = positive // len(anchors), positive % len(anchors)
    owner = owners[image, anchor]
    boxes, labels = truth.boxes[image, owner], truth.labels[image, owner] + 1
    background = _hardest(classes.detach(), owners, [len(row) for row in rows])
    samples = Samples(
        torch.cat([classes[image, anchor], classes[background]]),
        torch.cat([labels, torch.zeros_like(background[0])]),
        deltas[image, anchor],
        encode(boxes, anchors[anchor], CODING),
    )
    size = (prototypes.shape[2], prototypes.shape[3])
    mixing = coefficients.flatten(0, 1)
    logits = [mixing[row] @ maps.flatten(1) for row, maps in zip(rows, prototypes, strict=True)]
    shares = _shares(torch.cat(truth.masks), size, 4)[truth.among_all(image, owner)]
    return samples, (torch.cat(logits).unflatten(1, size), shares.masked_fill(~_inside(boxes / 4, size), -1.0))


def classes_of_places(segments: Sequence[Any], logits: Tensor) -> Tensor:
    """1 where most of a place's pixels belong to an object of the class, -1 where most are ignored, 0 elsewhere, in the
    shape of logits ``(B, C, h, w)`` at stride 8.

    Args:
        segments: of each image, of the targets.
    """
    size = (logits.shape[2], logits.shape[3])
    target = logits.new_zeros(logits.shape, dtype=torch.float32)
    for place, own in zip(target, segments, strict=True):
        place.index_add_(0, own.labels, (_shares(own.masks, size, 8) > 0.5).float()).clamp_(max=1)
        place.masked_fill_(_shares(~own.valid[None], size, 8) > 0.5, -1.0)
    return target


@torch.no_grad()
def _hardest(classes: Tensor, owners: Tensor, positive: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images and anchors ``(N,)`` of the background that is least taken for it: in each image ``NEGATIVES`` for each
    positive anchor; without any, as many as for one.

    Args:
        positive: number of positive anchors of each image.
    """
    scores = classes.float()
    loss = (scores.logsumexp(dim=2) - scores[..., 0]).masked_fill(owners != BACKGROUND, -torch.inf)
    wanted = [NEGATIVES * max(count, 1) for count in positive]
    values, anchors = loss.topk(min(max(wanted), loss.shape[1]), dim=1)
    counts = constant(wanted, loss.device, torch.int64)
    chosen = (torch.arange(values.shape[1], device=loss.device) < counts[:, None]) & (values > -torch.inf)
    (rows,) = places_by_row([chosen])
    place = torch.cat(rows)
    return place // chosen.shape[1], anchors.flatten()[place]


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cells ``(N, h, w)`` of 1 x 1 the boxes ``(N, 4)`` touch."""
    rows, columns = (torch.arange(length, device=boxes.device) for length in size)
    left, top, right, bottom = boxes.T[..., None]
    along, down = (columns + 1 > left) & (columns < right), (rows + 1 > top) & (rows < bottom)
    return down[:, :, None] & along[:, None]


def _shares(masks: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Shares ``(N, h, w)`` of ``stride`` x ``stride`` cells that masks ``(N, H, W)`` bool cover; pixels beyond the
    masks' right and lower border are not covered.
    """
    extra = [cells * stride - length for cells, length in zip(size, masks.shape[1:], strict=True)]
    padded = functional.pad(masks, (0, extra[1], 0, extra[0]))
    cells = padded.unflatten(2, (size[1], stride)).unflatten(1, (size[0], stride))
    return cells.sum(dim=(2, 4), dtype=torch.float32) / stride**2

"""The second stage of Mask R-CNN (He 2017, 1703.06870): class, box and mask of every proposal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segmodels.device import places
from segmodels.layers.anchors import clip, decode
from segmodels.layers.blocks import ConvNormAct, check_positive
from segmodels.layers.matching import Objects
from segmodels.layers.nms import batched_nms
from segmodels.layers.roi_align import align_masks, pyramid_align, roi_align
from segmodels.layers.sampling import BoxesOfObjects, Candidates, Chosen, Proposals, Samples

CODING = (10.0, 10.0, 5.0, 5.0)
OVERLAP = 0.5  # IoU with an object from which a proposal is trained as one
SMALLEST = 1e-2  # side of a detection, pixels
POINTS = 2  # of RoIAlign, per side of a cell
LEVEL, SIDE = 2, 224  # a box of 224 x 224 pixels is read from the map two levels above that at stride 4 ...
STRIDE = 4  # ... the finest (Lin 2016, 1612.03144, equation 1)

Norm = Callable[[int], nn.Module] | None


class Detections(NamedTuple):
    """Detections of a batch, a tensor per image."""

    boxes: list[Tensor]  # (N, 4) left, top, right, bottom in pixels
    scores: list[Tensor]  # (N,)
    labels: list[Tensor]  # (N,) int64, places among the classes
    masks: list[Tensor]  # (N, m, m) logits over the box


class MaskSamples(NamedTuple):
    """Outputs of the head of masks for P boxes of objects, and their targets."""

    logits: Tensor  # (P, m, m)
    shares: Tensor  # (P, m, m) of the cells that the objects cover, 0..1
    further: Mapping[str, tuple[Tensor, Tensor]] = {}  # of further outputs by name, logits and what is true, 0..1


@dataclass(frozen=True)
class HeadSettings:
    """Sizes of a second stage, and how many boxes it takes and gives.

    Attributes:
        channels: of the maps and of the convolutions.
        hidden: of the fully connected layers.
        box_convs, box_layers: numbers of 3x3 convolutions and of fully connected layers before class and box.
        norm: after each convolution.
        samples: proposals of an image to train on, at most a quarter of them positive.
        most: detections of an image, those with the best scores.
    """

    channels: int = 256
    hidden: int = 1024
    box_convs: int = 0
    box_layers: int = 2
    norm: Norm = None
    samples: int = 512
    most: int = 100

    def __post_init__(self) -> None:
        check_positive("samples", self.samples)
        check_positive("detections", self.most)


class BoxHeads(nn.Module, ABC):
    """The second stage of a detector in two stages: classes and boxes by fully connected layers on RoIAlign's cells (7
    x 7). Subclasses add the head of masks.

    Args:
        num_classes: C, without the background.

    Attributes:
        score: smallest score of a detection, 0..1.
        overlap: largest IoU of two detections of one class.
    """

    score: float = 0.05
    overlap: float = 0.5

    def __init__(self, num_classes: int, settings: HeadSettings) -> None:
        super().__init__()
        self.samples = settings.samples
        self.most = settings.most
        channels, hidden = settings.channels, settings.hidden
        widths = [channels * 7 * 7, *[hidden] * settings.box_layers]
        layers: list[nn.Module] = [
            ConvNormAct(channels, channels, norm=settings.norm) for _ in range(settings.box_convs)
        ]
        layers.append(nn.Flatten())
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.box_head = nn.Sequential(*layers)
        self.classes = nn.Linear(hidden, num_classes + 1)
        self.deltas = nn.Linear(hidden, 4 * (num_classes + 1))

    def detect(self, pyramid: Sequence[Tensor], proposals: Sequence[Tensor], size: tuple[int, int]) -> Detections:
        """The detections among proposals ``(P, 4)`` of each image, best first, of images of this height and width.

        Args:
            pyramid: maps at strides 4, 8, 16 and 32.
        """
        classes, deltas = self._boxes(pyramid, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = classes.float().softmax(dim=1).split(counts)
        boxes = clip(decode(deltas.float(), torch.cat(list(proposals)), CODING), size).split(counts)
        found = [self.best(*image) for image in zip(boxes, scores, strict=True)]
        chosen, best, labels = (list(values) for values in zip(*found, strict=True))
        return Detections(chosen, best, labels, self.masks_of(pyramid, chosen, labels))

    def candidates(self, proposals: Proposals, truth: Objects) -> Candidates:
        """Boxes from which the training draws."""
        return Candidates.of(proposals, truth, OVERLAP)

    def samples_of(self, pyramid: Sequence[Tensor], chosen: Chosen, truth: Objects) -> tuple[Samples, MaskSamples]:
        """Samples to train on: of classes and boxes, and of masks."""
        classes, deltas = self._boxes(pyramid, chosen.boxes)
        sampled = chosen.of_objects()
        own = deltas[sampled.rows, sampled.labels + 1]
        samples = Samples(classes, chosen.labels, own, sampled.deltas(truth, CODING))
        return samples, self.mask_samples(pyramid, sampled, truth)

    @abstractmethod
    def masks_of(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
        """Logits ``(N, m, m)`` of the detections of each image, of boxes ``(N, 4)`` and classes ``(N,)``."""

    @abstractmethod
    def mask_samples(self, pyramid: Sequence[Tensor], sampled: BoxesOfObjects, truth: Objects) -> MaskSamples:
        """Outputs of the head of masks for the sampled boxes, and their targets."""

    def classifiers(self) -> list[nn.Module]:
        """The layers whose outputs are of the classes."""
        return [self.classes, self.deltas]

    def box_features(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Features of all K boxes that give their classes and corrections, ``(K, hidden)``."""
        return self.box_head(cells(pyramid, boxes, 7))

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of one image, of boxes ``(P, C + 1, 4)`` and probabilities ``(P, C + 1)``."""
        labels = torch.arange(scores.shape[1] - 1, device=scores.device).expand(len(scores), -1).flatten()
        boxes, scores = boxes[:, 1:].flatten(0, 1), scores[:, 1:].flatten()
        large = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST).all(dim=1)
        (good,) = places([large & (scores > self.score)])
        good = good[batched_nms(boxes[good], scores[good], labels[good], self.overlap)[: self.most]]
        return boxes[good], scores[good], labels[good]

    def _boxes(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``(K, C + 1)``, the background first, and coded boxes ``(K, C + 1, 4)``."""
        features = self.box_features(pyramid, boxes)
        return self.classes(features), self.deltas(features).unflatten(1, (-1, 4))


class RoIHeads(BoxHeads):
    """The heads of Mask R-CNN: with masks by convolutions (14 x 14 cells, 28 x 28 in the mask). A mask is predicted for
    each class, that of the box's class is read.
    """

    def __init__(self, num_classes: int, settings: HeadSettings) -> None:
        super().__init__(num_classes, settings)
        channels = settings.channels
        self.mask_head = nn.Sequential(*(ConvNormAct(channels, channels, norm=settings.norm) for _ in range(4)))
        self.mask_up = nn.Sequential(nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.ReLU())
        self.masks = nn.Conv2d(channels, num_classes + 1, 1)
        initialise(self)

    def masks_of(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
        logits = self.mask_logits(pyramid, boxes)
        own = logits[torch.arange(len(logits), device=logits.device), torch.cat(list(labels)) + 1]
        return list(own.split([len(box) for box in boxes]))

    def mask_samples(self, pyramid: Sequence[Tensor], sampled: BoxesOfObjects, truth: Objects) -> MaskSamples:
        count = len(sampled.labels)
        logits = self.mask_logits(pyramid, sampled.boxes if count else sampled.spare)[:count]
        own = logits[torch.arange(count, device=logits.device), sampled.labels + 1]
        return MaskSamples(own, true_shares(sampled, truth, logits.shape[-1]))

    def classifiers(self) -> list[nn.Module]:
        return [*super().classifiers(), self.masks]

    def mask_logits(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Masks of all K boxes and of each class, the background first, ``(K, C + 1, m, m)``."""
        return self.masks(self.mask_up(self.mask_head(cells(pyramid, boxes, 14))))


def initialise(heads: nn.Module) -> None:
    """Weights of the convolutions from a normal distribution by the number of outputs (He 2015, 1502.01852), as in
    torchvision's heads; biases 0.
    """
    for layer in heads.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def cells(pyramid: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    """RoIAlign of the boxes of all images, each on the map that fits its size, ``(K, C, size, size)``.

    Args:
        pyramid: maps at strides 4, 8, ...
        boxes: ``(N, 4)`` of each image.
    """
    every = torch.cat(list(boxes))
    side = (every[:, 2:] - every[:, :2]).prod(dim=1).sqrt()
    levels = (LEVEL + torch.log2(side / SIDE) + 1e-6).floor().clamp(0, len(pyramid) - 1).long()
    scales = [1 / (STRIDE * 2**level) for level in range(len(pyramid))]
    return pyramid_align(pyramid, every, _images_of(boxes), levels, size, scales, POINTS)


def true_shares(sampled: BoxesOfObjects, truth: Objects, size: int) -> Tensor:
    """Shares of ``size`` x ``size`` cells of each box that its object covers, ``(P, size, size)``."""
    owners = truth.among_all(sampled.images, sampled.owners)
    return align_masks(torch.cat(truth.masks), torch.cat(sampled.boxes), owners, size, inside=True)


def cells_of_map(features: Tensor, boxes: Sequence[Tensor], size: int, stride: int) -> Tensor:
    """As ``cells``, all boxes on one map ``(B, C, h, w)`` of this stride."""
    return roi_align(features, torch.cat(list(boxes)), _images_of(boxes), size, 1 / stride, POINTS)


def _images_of(boxes: Sequence[Tensor]) -> Tensor:
    """The image of each box, ``(K,)``."""
    own = [torch.full((len(box),), number, device=box.device) for number, box in enumerate(boxes)]
    return torch.cat(own)

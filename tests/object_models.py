"""Three small models of objects, registered from here as a user would, while a test asks for it.

``kernels_tiny`` predicts queries (K-Net in the small: learned kernels, sharpened once by what they cover),
``centers_tiny`` is a one-stage detector with mask prototypes (FCOS, Tian 2019, with the masks of YOLACT, Bolya 2019).
``clicks_tiny`` answers clicks (SAM, Kirillov 2023, without its transformer).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmodels.losses.base import Images, Loss
from segmodels.losses.registry import LOSSES, LossCard, register_loss
from segmodels.models.base import PromptableModel
from segmodels.models.registry import MODELS, Card, register_model
from segmodels.outputs import DetectionOutput, DetectionTraining, PromptedOutput, QueryOutput, Sampled
from segmodels.prompts import Prompts
from segmodels.tasks.targets import SegmentTargets

WIDTH = 32
STRIDE = 4
CELLS = 14  # of a mask over its box, per side


def encoder(in_channels: int) -> nn.Sequential:
    """Features at a quarter of the size."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((in_channels, WIDTH, 2), (WIDTH, WIDTH, 2), (WIDTH, WIDTH, 1), (WIDTH, WIDTH, 1)):
        dilation = 1 if stride == 2 else 2
        layers += [nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class KernelsTiny(nn.Module):
    """Class and mask of each kernel, before and after it saw the features under its mask."""

    def __init__(self, num_classes: int, in_channels: int, queries: int) -> None:
        super().__init__()
        self.encoder = encoder(in_channels)
        self.kernels = nn.Parameter(torch.randn(queries, WIDTH) / 4)
        self.update = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.classifier = nn.Linear(WIDTH, num_classes + 1)

    def forward(self, images: Tensor, guide: Any = None) -> QueryOutput:
        features = self.encoder(images)
        size = (images.shape[2], images.shape[3])
        kernels = self.kernels.expand(len(images), -1, -1)
        first = self._read(kernels, features, size)
        share = first.mask_logits.flatten(2).softmax(dim=2)
        seen = torch.einsum("bqn,bcn->bqc", share, features.flatten(2))
        last = self._read(kernels + self.update(seen), features, size)
        return last._replace(auxiliary=(first,)) if self.training else last

    def _read(self, kernels: Tensor, features: Tensor, size: tuple[int, int]) -> QueryOutput:
        masks = torch.einsum("bqc,bchw->bqhw", kernels, features)
        return QueryOutput(self.classifier(kernels), masks, size=size)


def kernels_tiny(
    num_classes: int, in_channels: int = 3, things: tuple[int, ...] = (), queries: int = 10
) -> KernelsTiny:
    del things  # its queries are segments of any class
    return KernelsTiny(num_classes, in_channels, queries)


class CentersTiny(nn.Module):
    """At every fourth pixel: the class of the object around it, the distances to the sides of its box, and what mixes
    the prototypes into its mask.
    """

    def __init__(self, num_classes: int, in_channels: int, prototypes: int, detections: int) -> None:
        super().__init__()
        self.encoder = encoder(in_channels)
        self.classes = nn.Conv2d(WIDTH, num_classes, 1)
        self.sides = nn.Conv2d(WIDTH, 4, 1)
        self.mixing = nn.Conv2d(WIDTH, prototypes, 1)
        self.prototypes = nn.Conv2d(WIDTH, prototypes, 3, 1, 1)
        self.detections = detections
        nn.init.constant_(self.classes.bias, -3.0)  # objects are rare (Lin 2017)

    def forward(self, images: Tensor, guide: SegmentTargets | None = None) -> DetectionOutput:
        features = self.encoder(images)
        classes, mixing = (head(features).flatten(2).transpose(1, 2) for head in (self.classes, self.mixing))
        sides = F.softplus(self.sides(features)).flatten(2).transpose(1, 2) * STRIDE
        prototypes = self.prototypes(features)
        size = (images.shape[2], images.shape[3])
        rows, columns = (torch.arange(n, device=images.device) * STRIDE + STRIDE / 2 for n in features.shape[2:])
        y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
        centers = torch.stack([x, y], dim=1)
        if guide is not None:
            return DetectionOutput((), (), (), (), size, _samples(classes, sides, mixing, prototypes, centers, guide))
        found = [self._best(*image, centers) for image in zip(classes, sides, mixing, prototypes, strict=True)]
        boxes, scores, labels, masks = zip(*found, strict=True)
        return DetectionOutput(boxes, scores, labels, masks, size)

    def _best(self, classes: Tensor, sides: Tensor, mixing: Tensor, prototypes: Tensor, centers: Tensor) -> Any:
        scores, labels = classes.sigmoid().max(dim=1)
        scores, best = scores.topk(min(self.detections, len(scores)))
        boxes = torch.cat([centers[best] - sides[best, :2], centers[best] + sides[best, 2:]], dim=1)
        images = torch.zeros(len(best), dtype=torch.int64, device=boxes.device)
        return boxes, scores, labels[best], _mixed(mixing[best], prototypes[None], images, boxes)


def _samples(
    classes: Tensor, sides: Tensor, mixing: Tensor, prototypes: Tensor, centers: Tensor, targets: SegmentTargets
) -> DetectionTraining:
    """Every place says a class; those in an object its box and mask too."""
    truth = torch.zeros_like(classes)
    images, places, boxes, masks = [], [], [], []
    for number, segments in enumerate(targets.segments):
        assert segments.boxes is not None
        on = segments.masks[:, centers[:, 1].long(), centers[:, 0].long()]  # (K, N)
        owner = on.float().argmax(dim=0) if len(on) else on.new_zeros(len(centers), dtype=torch.int64)
        inside = torch.nonzero(on.any(dim=0))[:, 0]
        truth[number, inside, segments.labels[owner[inside]]] = 1
        images.append(torch.full_like(inside, number))
        places.append(inside)
        boxes.append(segments.boxes[owner[inside]])
        cells = _cells(boxes[-1])
        masks.append(segments.masks[owner[inside][:, None, None], cells[1][:, :, None], cells[0][:, None, :]])
    image, place, box = torch.cat(images), torch.cat(places), torch.cat(boxes).to(sides)
    distances = torch.cat([centers[place] - box[:, :2], box[:, 2:] - centers[place]], dim=1)
    return DetectionTraining(
        Sampled(classes.flatten(0, 1), truth.flatten(0, 1)),
        Sampled(sides[image, place], distances),
        Sampled(_mixed(mixing[image, place], prototypes, image, box), torch.cat(masks).to(sides)),
    )


def _mixed(mixing: Tensor, prototypes: Tensor, images: Tensor, boxes: Tensor) -> Tensor:
    """Mask logits (P, CELLS, CELLS) over boxes (P, 4)."""
    height, width = prototypes.shape[2:]
    columns, rows = ((axis // STRIDE).clamp(0, n - 1) for axis, n in zip(_cells(boxes), (width, height), strict=True))
    under = prototypes[images[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return torch.einsum("pk,pmnk->pmn", mixing, under)


def _cells(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and rows of the pixels at the centres of a box's cells, (P, CELLS) each."""
    shares = (torch.arange(CELLS, device=boxes.device) + 0.5) / CELLS
    start, length = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    x, y = ((start[:, axis, None] + shares * length[:, axis, None]).floor().long() for axis in (0, 1))
    return x, y


class TinyDetectionLoss(Loss):
    """Of a detector's samples, each sum divided by the number of positive ones."""

    reads: ClassVar[str] = "detection"
    requires: ClassVar[frozenset[str]] = frozenset({"objects"})

    def term(self, layer: Any, targets: Any, images: Images | None = None) -> Tensor | None:
        training = getattr(layer, "training", None)
        return None if training is None else self(training)

    def forward(self, training: DetectionTraining) -> Tensor:
        classes, boxes, masks = training.classes, training.boxes, training.masks
        count = max(len(boxes.prediction), 1)
        cross = F.binary_cross_entropy_with_logits(classes.prediction, classes.target, reduction="none")
        focal = (1 - torch.exp(-cross)) ** 2 * cross
        apart = (boxes.prediction - boxes.target).abs().sum() / STRIDE
        mask = F.binary_cross_entropy_with_logits(masks.prediction, masks.target, reduction="sum") / CELLS**2
        return (focal.sum() + apart / 4 + mask) / count


def centers_tiny(num_classes: int, in_channels: int = 3, prototypes: int = 8, detections: int = 50) -> CentersTiny:
    return CentersTiny(num_classes, in_channels, prototypes, detections)


class ClicksTiny(PromptableModel):
    """What the features have in common with those under each click, and how near the clicks are."""

    REACH = 8.0  # pixels

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.encoder = encoder(in_channels)
        self.head = nn.Sequential(nn.Conv2d(WIDTH + 4, WIDTH, 3, 1, 1), nn.ReLU(), nn.Conv2d(WIDTH, 1, 3, 1, 1))
        self.quality = nn.Linear(WIDTH, 1)

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode(self, embedding: Tensor, prompts: Prompts) -> PromptedOutput:
        images = zip(embedding, prompts.points, prompts.labels, strict=True)
        answers = [self._answer(*image) for image in images]
        masks, quality = zip(*answers, strict=True)
        return PromptedOutput(masks, quality)

    def _answer(self, features: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        height, width = features.shape[1:]
        x, y = points.unbind(dim=2)
        rows = torch.arange(height, device=points.device) * STRIDE + STRIDE / 2
        columns = torch.arange(width, device=points.device) * STRIDE + STRIDE / 2
        apart = (rows[:, None] - y[..., None, None]) ** 2 + (columns - x[..., None, None]) ** 2
        near = torch.exp(-apart / (2 * self.REACH**2))  # (N, P, h, w)
        under = features[:, (y // STRIDE).long(), (x // STRIDE).long()]  # (C, N, P)
        alike = torch.einsum("cnp,chw->nphw", under, features) / WIDTH
        maps = [(kind * own[..., None, None]).amax(dim=1) for own in (labels, 1 - labels) for kind in (near, alike)]
        joined = torch.cat([features.expand(len(points), -1, -1, -1), torch.stack(maps, dim=1)], dim=1)
        return self.head(joined)[:, 0], self.quality(under.mean(dim=2).T)[:, 0].sigmoid()


def clicks_tiny(num_classes: int, in_channels: int = 3) -> ClicksTiny:
    del num_classes  # a mask is of the object or not
    return ClicksTiny(in_channels)


CARDS = {
    kernels_tiny: Card(
        "a test",
        2024,
        tasks=("panoptic", "instance", "semantic"),
        losses={"mask_classification": 1.0},
        auxiliary_weights=(1.0,),
        least_classes=1,
    ),
    centers_tiny: Card("a test", 2024, tasks=("instance",), losses={"tiny_detection": 1.0}, least_classes=1),
    clicks_tiny: Card(
        "a test",
        2024,
        tasks=("promptable",),
        losses={"prompted_masks": 1.0},
        least_classes=1,
        learner="interactive",
    ),
}
LOSS_CARD = LossCard("focal loss of classes, L1 of boxes, cross-entropy of masks", "centers_tiny")


@contextmanager
def registered() -> Iterator[None]:
    """The models and the loss are known by their names; afterwards they are not, for tests that go through all."""
    register_loss("tiny_detection", LOSS_CARD)(TinyDetectionLoss)
    for build, card in CARDS.items():
        register_model(build.__name__, card)(build)
    try:
        yield
    finally:
        del LOSSES._entries["tiny_detection"]
        for build in CARDS:
            del MODELS._entries[build.__name__]

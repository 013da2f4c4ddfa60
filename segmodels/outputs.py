"""What models return. An output reads itself: as probabilities, as objects, as a panoptic map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import _register_namedtuple

from segmodels.labels import LabelMap
from segmodels.metrics.object_matching import SURE
from segmodels.object_reading import (
    Frame,
    InstanceSettings,
    PanopticSettings,
    Size,
    detected_objects,
    framed_logits,
    fuse,
    prompted_instances,
    query_objects,
    query_panoptic,
    resize_logits,
)
from segmodels.object_views import ObjectView
from segmodels.results import Instances, PanopticMap


class PointPrediction(NamedTuple):
    """Logits of N points of every image (PointRend, Kirillov 2020), for a loss on those points alone."""

    logits: Tensor  # (B, C, N)
    coordinates: Tensor  # (B, N, 2), x and y as shares of the width and the height, 0..1

    def pixels(self, height: int, width: int) -> Tensor:
        """``(B, N)`` int64: place, in a flattened map of ``height`` x ``width``, of the pixel that each point lies
        on.
        """
        x, y = self.coordinates.unbind(dim=-1)  # numbers, not a tensor, which would have to travel to the device
        return (y * height).long().clamp(max=height - 1) * width + (x * width).long().clamp(max=width - 1)


class StuffPrediction(NamedTuple):
    """Logits of stuff and, as the last class, of all things together (panoptic FPN, Kirillov 2019)."""

    logits: Tensor  # (B, S + 1, H, W)
    places: Tensor  # (C,) int64, of each train id among the S + 1


class PixelOutput(NamedTuple):
    """A class for every pixel, of images float32 ``(B, in_channels, *spatial)``.

    A key of ``extras`` is the name of the loss that reads the value: ``presence`` (B, C), ``object_presence`` (B, 2),
    ``image_label`` (B, K), ``points`` (PointPrediction), ``reconstruction`` (B, in_channels, *spatial), ``stuff``
    (StuffPrediction), ``further`` (name -> logits). ``presence``, ``points``, ``stuff`` and ``reconstruction`` exist in
    training mode only.
    """

    logits: Tensor  # (B, C, *spatial) before softmax, at the input's size
    auxiliary: tuple[Tensor, ...] = ()  # further logits (B, C, *spatial) for deep supervision, training mode only
    extras: Mapping[str, Any] = {}

    def probabilities(self) -> Tensor:
        """``(B, C, *spatial)`` float32, each pixel's sum 1."""
        return self.logits.float().softmax(dim=1)

    def confidence(self) -> Tensor:
        """``(B,)``, 0..1: the mean, over pixels on a grid, of the probability of the most probable class."""
        return _certainty(on_grid(self.logits).float().softmax(dim=1))

    def layers(self, weights: Sequence[float]) -> list[tuple[float, PixelOutput]]:
        """What losses see one at a time: the output itself with weight 1, then each auxiliary output with its weight.

        Args:
            weights: of the auxiliary outputs in their order; further ones take the last.
        """
        auxiliary = [(weight_of(weights, i), PixelOutput(logits)) for i, logits in enumerate(self.auxiliary)]
        return [(1.0, self), *auxiliary]


class QueryOutput(NamedTuple):
    """Mask classification (MaskFormer, Cheng 2021): Q queries, each one class distribution and one mask."""

    class_logits: Tensor  # (B, Q, C + 1), the last is "no object"
    mask_logits: Tensor  # (B, Q, h, w)
    auxiliary: tuple[QueryOutput, ...] = ()  # the same from earlier decoder layers, training mode only
    size: tuple[int, int] | None = None  # height and width of the input; None: those of the masks

    def probabilities(self) -> Tensor:
        """``(B, C, H, W)`` float32: Σ over queries of class times mask probability (MaskFormer, section 3.4, semantic
        inference), divided by its sum over the classes.
        """
        return self._classes(resize_logits(self.mask_logits, self.size or self.mask_logits.shape[2:]))

    def confidence(self) -> Tensor:
        """As that of ``PixelOutput``, at the resolution of the masks."""
        return _certainty(self._classes(on_grid(self.mask_logits).float()))

    def _classes(self, mask_logits: Tensor) -> Tensor:
        scores = torch.einsum(
            "bqc,bqhw->bchw", self.class_logits.float().softmax(dim=2)[..., :-1], mask_logits.sigmoid()
        )
        return scores / scores.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def instances(self, sizes: Sequence[Size], settings: InstanceSettings) -> list[Instances]:
        """Objects of each image at its size; labels are places among the C classes."""
        return [view.found for view in self.views(sizes, settings)]

    def views(self, sizes: Sequence[Size], settings: InstanceSettings) -> list[ObjectView]:
        """As ``instances``, with the probabilities of the masks."""
        images = zip(self.class_logits, self.mask_logits, sizes, strict=True)
        return [query_objects(*image, settings) for image in images]

    def mirrored(self) -> QueryOutput:
        """What the model says of the image, of what it said of the image mirrored left to right."""
        return self._replace(mask_logits=self.mask_logits.flip(-1), auxiliary=())

    def panoptic(self, sizes: Sequence[Size], labels: LabelMap, settings: PanopticSettings) -> list[PanopticMap]:
        """The panoptic map of each image at its size, of a model of all classes of ``labels``."""
        images = zip(self.class_logits, self.mask_logits, sizes, strict=True)
        return [query_panoptic(*image, labels.things, settings) for image in images]

    def layers(self, weights: Sequence[float]) -> list[tuple[float, QueryOutput]]:
        """The output itself with weight 1, then each earlier layer's with its weight (the last for further ones)."""
        return [(1.0, self), *((weight_of(weights, i), layer) for i, layer in enumerate(self.auxiliary))]


class Sampled(NamedTuple):
    """What one head said about its N samples of a batch, and what is true of them.

    Without samples ``prediction`` is an empty part of the head's output, so that its sum still reaches every parameter.
    """

    prediction: Tensor  # (N, ...) logits or regressed numbers
    target: Tensor  # (N, ...) in the same coding: classes int64, numbers float32


class DetectionTraining(NamedTuple):
    """Samples of a detector's heads with their targets, over all images of a batch."""

    classes: Sampled  # logits (N, C) or (N, C + 1) and targets (N,) or (N, C), as the model's loss reads them
    boxes: Sampled  # of positive samples, (P, 4)
    masks: Sampled  # of positive samples, logits (P, m, n) and targets 0..1, negative where a cell does not count
    proposals: Sampled | None = None  # objectness of a first stage: logits (A,) and 0 or 1
    proposal_boxes: Sampled | None = None  # of its positive anchors, (P, 4)
    further: Mapping[str, Sampled] = {}  # logits and targets 0..1 of further heads, by the names of their curves


class DetectionOutput(NamedTuple):
    """Scored boxes with a class and a mask each (Mask R-CNN, one-stage detectors with masks).

    One tensor per image, as images have different numbers of detections; one tensor with an axis for the images in
    front where all have the same number. They need not be free of duplicates.
    """

    boxes: tuple[Tensor, ...] | Tensor  # (N, 4) left, top, right, bottom in pixels of the input
    scores: tuple[Tensor, ...] | Tensor  # (N,) probability of the class, 0..1
    labels: tuple[Tensor, ...] | Tensor  # (N,) int64, places among the model's classes
    masks: tuple[Tensor, ...] | Tensor  # (N, m, n) logits over the box, of any resolution
    size: tuple[int, int]  # height and width of the input
    training: DetectionTraining | None = None  # None in evaluation mode
    auxiliary: tuple[DetectionOutput, ...] = ()  # of further stages of a cascade, training mode only
    extras: Mapping[str, Any] = {}  # as of ``PixelOutput``, training mode only

    def instances(self, sizes: Sequence[Size], settings: InstanceSettings) -> list[Instances]:
        """Objects of each image at its size; labels are places among the model's classes."""
        return [view.found for view in self.views(sizes, settings)]

    def views(self, sizes: Sequence[Size], settings: InstanceSettings) -> list[ObjectView]:
        """As ``instances``, with the probabilities of the masks."""
        images = zip(self.boxes, self.scores, self.labels, self.masks, sizes, strict=True)
        return [
            detected_objects(boxes, scores, labels, masks, self.size, size, settings)
            for boxes, scores, labels, masks, size in images
        ]

    def mirrored(self) -> DetectionOutput:
        """What the model says of the image, of what it said of the image mirrored left to right."""
        width = self.size[1]
        boxes = [own * own.new_tensor((-1, 1, -1, 1)) + own.new_tensor((width, 0, width, 0)) for own in self.boxes]
        turned = tuple(own[:, [2, 1, 0, 3]] for own in boxes)
        return self._replace(boxes=turned, masks=tuple(own.flip(-1) for own in self.masks), auxiliary=())

    def confidence(self) -> Tensor:
        """``(B,)``, 0..1: the mean score of the detections that count as sure (0.3); 0 without any."""
        sure = (scores[scores >= SURE].float() for scores in self.scores)
        return torch.stack([own.mean() if len(own) else own.new_zeros(()) for own in sure])

    def layers(self, weights: Sequence[float]) -> list[tuple[float, DetectionOutput]]:
        """The output itself with weight 1, then each stage's with its weight (the last for further ones)."""
        return [(1.0, self), *((weight_of(weights, i), stage) for i, stage in enumerate(self.auxiliary))]


class PanopticOutput(NamedTuple):
    """Stuff by pixel and things by detection (panoptic FPN, Kirillov 2019)."""

    pixels: PixelOutput  # over the classes of stuff in the order of their train ids, and "other" as the last
    detections: DetectionOutput  # labels are places among the things in the order of their train ids

    def panoptic(self, sizes: Sequence[Size], labels: LabelMap, settings: PanopticSettings) -> list[PanopticMap]:
        """The panoptic map of each image at its size."""
        things = sorted(labels.things)
        stuff = [label for label in range(labels.num_classes) if label not in labels.things]
        objects = self.detections.instances(sizes, InstanceSettings())
        maps = []
        for logits, instances, size in zip(self.pixels.logits, objects, sizes, strict=True):
            classes = resize_logits(logits, size).argmax(dim=0).cpu().numpy()
            maps.append(fuse(instances, things, stuff, classes, settings))
        return maps

    def confidence(self) -> Tensor:
        """That of the pixels."""
        return self.pixels.confidence()

    def layers(self, weights: Sequence[float]) -> list[tuple[float, PixelOutput | DetectionOutput]]:
        """The layers of both parts: losses of pixels and of detections each see their own."""
        return [*self.pixels.layers(weights), *self.detections.layers(weights)]


class Choices(NamedTuple):
    """M masks for each of the N prompted objects of an image, as a single click may mean a part or the whole."""

    mask_logits: Tensor  # (N, M, h, w)
    quality: Tensor  # (N, M) estimated IoU of each mask, 0..1
    allowed: Tensor  # (N, M) bool, those that answer the prompt

    def sure(self) -> Tensor:
        """``(N, M)``: the quality of what is allowed, -inf elsewhere."""
        return self.quality.masked_fill(~self.allowed, float("-inf"))


class PromptedOutput(NamedTuple):
    """A mask for each of the N prompted objects of an image (SAM, Kirillov 2023); one tensor per image."""

    mask_logits: tuple[Tensor, ...]  # (N, h, w), of several choices the one of the best estimated quality
    quality: tuple[Tensor, ...]  # (N,) estimated IoU of each mask, 0..1
    choices: tuple[Choices, ...] | None = None  # None: the model has no others
    frame: Frame | None = None  # what all masks cover; None: the image alone

    def at(self, logits: Tensor, size: Size) -> Tensor:
        """Logits ``(..., h, w)`` of this output at the image's size ``(H, W)``, float32."""
        return framed_logits(logits, size, self.frame)

    def objects(self, sizes: Sequence[Size]) -> list[Instances]:
        """The masks of each image at its size, in the order of the prompts, whatever their quality; labels are 0."""
        return [
            prompted_instances(logits, quality, size, self.frame)
            for logits, quality, size in zip(self.mask_logits, self.quality, sizes, strict=True)
        ]

    def layers(self, weights: Sequence[float]) -> list[tuple[float, PromptedOutput]]:
        """The output itself with weight 1."""
        return [(1.0, self)]


def weight_of(weights: Sequence[float], index: int) -> float:
    """``weights[index]``, or the last of them beyond their end."""
    return weights[min(index, len(weights) - 1)]


def on_grid(maps: Tensor) -> Tensor:
    """Maps ``(B, C, *spatial)`` at evenly spaced pixels: at most 64 on each of two axes, 16 on each of three."""
    most = 64 if maps.dim() == 4 else 16
    steps = (slice(None, None, max(-(-length // most), 1)) for length in maps.shape[2:])
    return maps[(slice(None), slice(None), *steps)]


def _certainty(probabilities: Tensor) -> Tensor:
    """``(B,)`` of ``(B, C, *spatial)``."""
    return probabilities.amax(dim=1).flatten(1).mean(dim=1)


# so that torch.export.save can write a program that returns one
_TYPES = (
    PointPrediction,
    StuffPrediction,
    PixelOutput,
    QueryOutput,
    Sampled,
    DetectionTraining,
    DetectionOutput,
    PanopticOutput,
    Choices,
    Frame,
    PromptedOutput,
)
for _type in _TYPES:
    _register_namedtuple(_type, serialized_type_name=f"segmodels.{_type.__name__}")

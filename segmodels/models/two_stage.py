"""The base of detectors in two stages: region proposals on a feature pyramid, and heads that read them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.errors import InputError
from segmodels.layers.fpn import FPN
from segmodels.layers.matching import Objects, objects_of
from segmodels.layers.padding import zeros_to_multiple
from segmodels.layers.roi_heads import Detections, MaskSamples
from segmodels.layers.rpn import Anchors, RegionProposals
from segmodels.layers.sampling import Candidates, Chosen, Samples, drawn_of
from segmodels.models.base import Model
from segmodels.outputs import DetectionOutput, DetectionTraining, Sampled

STRIDES = (4, 8, 16, 32)
SIDES = (32, 64, 128, 256, 512)
"""Sides of the square anchors on each map of the pyramid, pixels."""


class Detector(Model, ABC):
    """Encoder with maps at strides 4 to 32, feature pyramid, region proposals; heads are added by subclasses.

    Any input size: the model pads with the mean colour, on the right and below, to a multiple of 32. In training the
    guide, the targets' segments, gives the samples of the heads; crowds are neither objects nor background.

    Args:
        fpn: of the encoder's maps; a fifth map for the proposals is every second pixel of its coarsest.
    """

    exportable: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, fpn: FPN, rpn: RegionProposals) -> None:
        super().__init__()
        self.encoder = encoder
        self.fpn = fpn
        self.rpn = rpn

    def forward(self, images: Tensor, guide: Any = None) -> DetectionOutput:
        size = (images.shape[2], images.shape[3])
        padded, pyramid = self.pyramid(images)
        truth = objects_of(guide.segments) if self.training and guide is not None else None
        return self.detect(pyramid, padded, size, truth)

    def pyramid(self, images: Tensor) -> tuple[tuple[int, int], list[Tensor]]:
        """Height and width of the padded images, and their maps at strides 4 to 32."""
        images = zeros_to_multiple(images, STRIDES[-1])
        return (images.shape[2], images.shape[3]), self.maps(images)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The pyramid of padded images."""
        return self.fpn(self.encoder.maps(images, STRIDES))

    def drawn(self, anchors: Anchors, candidates: Candidates, count: int, truth: Objects) -> tuple[Samples, Chosen]:
        """Random samples of the region proposals, and ``count`` boxes of each image that the second stage is trained
        on; waits once for a GPU.
        """
        first, second = drawn_of(self.rpn.draw(anchors, truth), candidates.draw(count))
        return self.rpn.samples_of(anchors, first, truth), candidates.chosen(second, truth)

    @abstractmethod
    def detect(
        self,
        pyramid: Sequence[Tensor],
        padded: tuple[int, int],
        size: tuple[int, int],
        truth: Objects | None,
    ) -> DetectionOutput:
        """Detections, or with the true objects the samples that the heads are trained on.

        Args:
            pyramid: maps at strides 4, 8, 16 and 32.
            padded, size: height and width of the images with and without padding.
            truth: the objects, in training; None: detect.
        """


def check_sides(sides: Sequence[float]) -> None:
    """Raise InputError unless there is a side of anchors for each map of the pyramid."""
    if len(sides) != len(SIDES) or not all(0 < side < math.inf for side in sides):
        raise InputError(
            f"sides is {list(sides)}, expected {len(SIDES)} positive numbers, the sides in pixels of anchors on each"
            " map of the pyramid"
        )


def every_second(features: Tensor) -> Tensor:
    """The next coarser map of a pyramid: every second pixel."""
    return functional.max_pool2d(features, 1, stride=2)


def detected(found: Detections, size: tuple[int, int]) -> DetectionOutput:
    """The output in evaluation, of images of this height and width."""
    boxes, scores, labels, masks = (tuple(values) for values in found)
    return DetectionOutput(boxes, scores, labels, masks, size)


def training_of(second: Samples, masks: MaskSamples, first: Samples | None = None) -> DetectionTraining:
    """Samples of a second stage, its masks and the region proposals, as the losses read them."""
    return DetectionTraining(
        classes=Sampled(second.scores, second.labels),
        boxes=Sampled(second.deltas, second.true_deltas),
        masks=Sampled(masks.logits, masks.shares),
        proposals=None if first is None else Sampled(first.scores, first.labels),
        proposal_boxes=None if first is None else Sampled(first.deltas, first.true_deltas),
        further={name: Sampled(*samples) for name, samples in masks.further.items()},
    )

"""Panoptic FPN (Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446): Mask R-CNN for things
and semantic FPN's branch for stuff, on one pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.blocks import group_norm, resize
from segmodels.layers.fpn import SemanticBranch
from segmodels.layers.matching import objects_of
from segmodels.models.base import Model
from segmodels.models.mask_rcnn import mask_rcnn_r50_fpn
from segmodels.models.registry import Card, register_model
from segmodels.models.two_stage import SIDES, Detector
from segmodels.outputs import PanopticOutput, PixelOutput, StuffPrediction

PAPER = "Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446"


class PanopticFPN(Model):
    """A detector of things, and a branch of its pyramid that tells stuff apart and takes all things for one class.

    Any input size. The guide in training is as of ``Detector``.

    Args:
        detector: of as many classes as there are things, in their order.
        branch: of its pyramid, to ``width`` channels at stride 4.
        num_classes, things: classes of pixels, and those of them that are things.
    """

    exportable: ClassVar[bool] = False
    thing_places: Tensor
    stuff_places: Tensor

    def __init__(
        self, detector: Detector, branch: SemanticBranch, width: int, num_classes: int, things: Sequence[int]
    ) -> None:
        super().__init__()
        stuff = [label for label in range(num_classes) if label not in things]
        self.detector = detector
        self.branch = branch
        self.stuff = nn.Conv2d(width, len(stuff) + 1, 1)
        thing_places, stuff_places = [-1] * num_classes, [len(stuff)] * num_classes
        for place, label in enumerate(sorted(things)):
            thing_places[label] = place
        for place, label in enumerate(stuff):
            stuff_places[label] = place
        self.register_buffer("thing_places", torch.tensor(thing_places), persistent=False)
        self.register_buffer("stuff_places", torch.tensor(stuff_places), persistent=False)

    def forward(self, images: Tensor, guide: Any = None) -> PanopticOutput:
        size = (images.shape[2], images.shape[3])
        padded, pyramid = self.detector.pyramid(images)
        logits = resize(self.stuff(self.branch(pyramid)), padded)[..., : size[0], : size[1]]
        truth = objects_of(guide.segments, self.thing_places) if self.training and guide is not None else None
        extras = {"stuff": StuffPrediction(logits, self.stuff_places)} if self.training else {}
        return PanopticOutput(PixelOutput(logits, extras=extras), self.detector.detect(pyramid, padded, size, truth))

    def classifiers(self) -> list[nn.Module]:
        return [self.stuff, *self.detector.classifiers()]


@register_model(
    "panoptic_fpn_r50",
    Card(
        PAPER,
        2019,
        tasks=("panoptic",),
        losses={"detection": 1.0, "stuff": 0.5},
        parameters=46_031_467,
        num_classes=133,
        gmac=124.36,
        source="own count, of COCO's 80 things and 53 classes of stuff; GMAC of 1,000 proposals and 100 detections",
        result="COCO val2017: PQ 39.0 (paper, table 4)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def panoptic_fpn_r50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    things: Sequence[int] | None = None,
    channels: int = 256,
    width: int = 128,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> PanopticFPN:
    """Mask R-CNN as ``mask_rcnn_r50_fpn``, and the semantic branch with group norm.

    Args:
        things: train ids of the countable classes; None: the first of all, as many as COCO has among its 133 (80).
        width: channels of the semantic branch, a multiple of 32.
        channels, hidden, sides, samples, detections: as of ``mask_rcnn_r50_fpn``.

    Raises:
        InputError: things that are not classes.
    """
    things = range(80 * num_classes // 133) if things is None else things
    if unknown := [label for label in things if not 0 <= label < num_classes]:
        raise InputError(f"things has {unknown}, expected train ids of the {num_classes} classes, 0..{num_classes - 1}")
    detector = mask_rcnn_r50_fpn(len(things), in_channels, body, channels, hidden, sides, samples, detections)
    branch = SemanticBranch(4, channels, width, group_norm)
    return PanopticFPN(detector, branch, width, num_classes, things)

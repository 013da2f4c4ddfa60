"""Mask R-CNN (He et al.: Mask R-CNN, ICCV 2017, arXiv 1703.06870) on a feature pyramid, in the two forms of
torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct
from segmodels.layers.fpn import FPN
from segmodels.layers.matching import Objects, Samples
from segmodels.layers.names import Names, renamed
from segmodels.layers.roi_heads import MaskSamples, RoIHeads
from segmodels.layers.rpn import RegionProposals
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import DetectionOutput, DetectionTraining, Sampled

PAPER = "He et al.: Mask R-CNN, ICCV 2017, arXiv 1703.06870"
STRIDES = (4, 8, 16, 32)
SIDES = (32, 64, 128, 256, 512)
"""Of square anchors on each map of the pyramid, pixels."""


FPN_CONVOLUTIONS: Names = ((r"^(fpn\.\w+\.\d)\.0\.", r"\1."),)
FPN_BLOCKS: Names = ((r"^(fpn\.\w+\.\d)\.0\.", r"\1.conv."), (r"^(fpn\.\w+\.\d)\.1\.", r"\1.norm."))
"""Layers of torchvision's pyramid, here plain convolutions or blocks with a norm."""


class MaskRCNN(Model):
    """Encoder with maps at strides 4 to 32, feature pyramid, region proposals; class, box and mask of each proposal.

    Any input size: the model pads with the mean colour, on the right and below, to a multiple of 32. In training the
    guide, the targets' segments, gives the samples of the heads; crowds are neither objects nor background.

    Args:
        fpn: of the encoder's maps; a fifth map for the proposals is every second pixel of its coarsest.
    """

    exportable: ClassVar[bool] = False

    published: ClassVar[Names] = (
        (r"^backbone\.body\.", "backbone."),
        (r"^backbone\.fpn\.inner_blocks\.", "fpn.laterals."),
        (r"^backbone\.fpn\.layer_blocks\.", "fpn.outputs."),
        (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.convs.0.conv.\1"),
        (r"^rpn\.head\.conv\.(\d)\.0\.", r"rpn.convs.\1.conv."),
        (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
        (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
        (r"^roi_heads\.box_head\.fc6\.", "roi_heads.box_head.1."),
        (r"^roi_heads\.box_head\.fc7\.", "roi_heads.box_head.3."),
        (r"^roi_heads\.box_predictor\.cls_score\.", "roi_heads.classes."),
        (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_heads.deltas."),
        *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", f"roi_heads.mask_head.{i}.conv.") for i in range(4)),
        (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_up.0."),
        (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.masks."),
        (r"^(roi_heads\.\w+_head\.\d)\.0\.", r"\1.conv."),
        (r"^(roi_heads\.\w+_head\.\d)\.1\.", r"\1.norm."),
    )
    """Of torchvision, in files old and new: it has numbered the layers of its blocks since version 0.13."""

    def __init__(self, encoder: Encoder, fpn: FPN, rpn: RegionProposals, roi_heads: RoIHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.fpn = fpn
        self.rpn = rpn
        self.roi_heads = roi_heads

    def forward(self, images: Tensor, guide: Any = None) -> DetectionOutput:
        size = (images.shape[2], images.shape[3])
        padded, pyramid = self.pyramid(images)
        truth = objects_of(guide.segments) if self.training and guide is not None else None
        return self.detect(pyramid, padded, size, truth)

    def pyramid(self, images: Tensor) -> tuple[tuple[int, int], list[Tensor]]:
        """Height and width of the padded images, and their maps at strides 4 to 32."""
        height, width = images.shape[2:]
        images = functional.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        return (images.shape[2], images.shape[3]), self.fpn(self.encoder.maps(images, STRIDES))

    def detect(
        self,
        pyramid: Sequence[Tensor],
        padded: tuple[int, int],
        size: tuple[int, int],
        truth: Sequence[Objects] | None,
    ) -> DetectionOutput:
        """Detections, or with the true objects the samples that the heads are trained on."""
        coarsest = functional.max_pool2d(pyramid[-1], 1, stride=2)
        proposals, first = self.rpn([*pyramid, coarsest], padded, size, truth)
        if truth is None or first is None:
            found = self.roi_heads.detect(pyramid, proposals, size)
            boxes, scores, labels, logits = (tuple(values) for values in found)
            return DetectionOutput(boxes, scores, labels, logits, size)
        second, masks = self.roi_heads.samples_of(pyramid, proposals, truth)
        return DetectionOutput((), (), (), (), size, _training(first, second, masks))

    def translate(self, key: str) -> str:
        key = renamed(key, self.published)
        if key.startswith("backbone."):
            return super().translate(key)
        if isinstance(self.fpn.laterals[0], ConvNormAct):
            return renamed(key, FPN_BLOCKS)
        return renamed(key, FPN_CONVOLUTIONS)

    def classifiers(self) -> list[nn.Module]:
        return self.roi_heads.classifiers()


def objects_of(segments: Sequence[Any], places: Tensor | None = None) -> list[Objects]:
    """The true objects of each image, of the segments of targets.

    Args:
        places: ``(C,)`` of each class among those that the model detects, negative for others; None: the segments'
            labels are such places.
    """
    found = []
    for own in segments:
        labels = own.labels if places is None else places[own.labels]
        crowd = torch.zeros_like(labels, dtype=torch.bool) if own.crowd is None else own.crowd
        single = (labels >= 0) & ~crowd
        found.append(Objects(own.boxes[single], labels[single], own.masks[single], own.boxes[(labels >= 0) & crowd]))
    return found


def check_sides(sides: Sequence[float]) -> None:
    """Raise InputError unless there is a side of anchors for each map of the pyramid."""
    if len(sides) != len(SIDES) or min(sides) <= 0:
        raise InputError(
            f"sides is {list(sides)}, expected {len(SIDES)} positive numbers, the sides in pixels of anchors on each"
            " map of the pyramid"
        )


def _training(first: Samples, second: Samples, masks: MaskSamples) -> DetectionTraining:
    """What the losses read."""
    return DetectionTraining(
        classes=Sampled(second.scores, second.labels),
        boxes=Sampled(second.deltas, second.true_deltas),
        masks=Sampled(masks.logits, masks.shares),
        proposals=Sampled(first.scores, first.labels),
        proposal_boxes=Sampled(first.deltas, first.true_deltas),
        further={name: Sampled(*samples) for name, samples in masks.further.items()},
    )


@register_model(
    "mask_rcnn_r50_fpn",
    Card(
        PAPER,
        2017,
        tasks=("instance",),
        losses={"detection": 1.0},
        least_classes=1,
        parameters=44_454_513,
        num_classes=90,
        gmac=116.72,
        source=(
            "torchvision 0.29 maskrcnn_resnet50_fpn, counted: 44,401,393 where batch norms are frozen, as with"
            " pretrained weights; GMAC of 1,000 proposals and 100 detections, own count"
        ),
        result="COCO val2017: box AP 37.9, mask AP 34.6 (torchvision's weights)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def mask_rcnn_r50_fpn(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> MaskRCNN:
    """torchvision's first form: plain convolutions in pyramid and heads, two fully connected layers.

    Args:
        num_classes: of objects; the background is no class.
        channels: of the pyramid and of the heads' convolutions.
        hidden: of the fully connected layers.
        sides: of square anchors on the five maps at strides 4 to 64, pixels.
        samples: proposals of an image that the second stage is trained on.
        detections: largest number of detections in an image.

    Raises:
        InputError: not a side for each map.
    """
    check_sides(sides)
    encoder = body.build(in_channels)
    return MaskRCNN(
        encoder,
        FPN(encoder.channels_at(STRIDES), channels),
        RegionProposals(channels, sides),
        RoIHeads(num_classes, channels, hidden, samples=samples, most=detections),
    )


@register_model(
    "mask_rcnn_r101_fpn",
    Card(
        PAPER,
        2017,
        tasks=("instance",),
        losses={"detection": 1.0},
        least_classes=1,
        parameters=63_446_641,
        num_classes=90,
        gmac=136.12,
        source="own count, as mask_rcnn_r50_fpn",
        result="COCO test-dev: mask AP 35.7 (paper, table 1)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def mask_rcnn_r101_fpn(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101"),
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> MaskRCNN:
    """``mask_rcnn_r50_fpn`` on the deeper ResNet-101."""
    return mask_rcnn_r50_fpn(num_classes, in_channels, body, channels, hidden, sides, samples, detections)


@register_model(
    "mask_rcnn_r50_fpn_v2",
    Card(
        PAPER,
        2017,
        tasks=("instance",),
        losses={"detection": 1.0},
        least_classes=1,
        parameters=46_359_409,
        num_classes=90,
        gmac=244.15,
        source=(
            "torchvision 0.29 maskrcnn_resnet50_fpn_v2, counted; GMAC of 1,000 proposals and 100 detections, own count"
        ),
        result="COCO val2017: box AP 47.4, mask AP 41.8 (torchvision's weights)",
    ),
)
def mask_rcnn_r50_fpn_v2(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> MaskRCNN:
    """torchvision's second form (Li 2021, 2111.11429): batch norm in pyramid and heads, two convolutions for the
    proposals, four convolutions and one fully connected layer for class and box. Options as of ``mask_rcnn_r50_fpn``.
    """
    check_sides(sides)
    encoder = body.build(in_channels)
    norm = nn.BatchNorm2d
    return MaskRCNN(
        encoder,
        FPN(encoder.channels_at(STRIDES), channels, norm),
        RegionProposals(channels, sides, depth=2),
        RoIHeads(num_classes, channels, hidden, 4, 1, norm=norm, samples=samples, most=detections),
    )


@register_model(
    "mask_rcnn_r101_fpn_v2",
    Card(
        PAPER,
        2017,
        tasks=("instance",),
        losses={"detection": 1.0},
        least_classes=1,
        parameters=65_351_537,
        num_classes=90,
        gmac=263.55,
        source="own count, as mask_rcnn_r50_fpn_v2",
    ),
)
def mask_rcnn_r101_fpn_v2(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet101"),
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> MaskRCNN:
    """``mask_rcnn_r50_fpn_v2`` on the deeper ResNet-101."""
    return mask_rcnn_r50_fpn_v2(num_classes, in_channels, body, channels, hidden, sides, samples, detections)

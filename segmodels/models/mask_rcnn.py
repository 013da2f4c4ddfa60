"""Mask R-CNN (He et al.: Mask R-CNN, ICCV 2017, arXiv 1703.06870) on a feature pyramid, in the two forms of
torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct
from segmodels.layers.fpn import FPN
from segmodels.layers.matching import Objects
from segmodels.layers.names import Names, renamed
from segmodels.layers.roi_heads import BoxHeads, HeadSettings, RoIHeads
from segmodels.layers.rpn import RegionProposals
from segmodels.models.registry import Card, register_model
from segmodels.models.two_stage import SIDES, STRIDES, Detector, check_sides, detected, every_second, training_of
from segmodels.outputs import DetectionOutput

PAPER = "He et al.: Mask R-CNN, ICCV 2017, arXiv 1703.06870"

FPN_CONVOLUTIONS: Names = ((r"^(fpn\.\w+\.\d)\.0\.", r"\1."),)
FPN_BLOCKS: Names = ((r"^(fpn\.\w+\.\d)\.0\.", r"\1.conv."), (r"^(fpn\.\w+\.\d)\.1\.", r"\1.norm."))
"""Layers of torchvision's pyramid, here plain convolutions or blocks with a norm."""


class MaskRCNN(Detector):
    """A detector with one second stage: class, box and mask of each proposal."""

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
    """torchvision's names, in files old and new: it has numbered the layers of its blocks since version 0.13."""

    def __init__(self, encoder: Encoder, fpn: FPN, rpn: RegionProposals, roi_heads: BoxHeads) -> None:
        super().__init__(encoder, fpn, rpn)
        self.roi_heads = roi_heads

    def detect(
        self,
        pyramid: Sequence[Tensor],
        padded: tuple[int, int],
        size: tuple[int, int],
        truth: Objects | None,
    ) -> DetectionOutput:
        proposals, anchors = self.rpn([*pyramid, every_second(pyramid[-1])], padded, size)
        if truth is None:
            return detected(self.roi_heads.detect(pyramid, proposals.of_images(), size), size)
        candidates = self.roi_heads.candidates(proposals, truth)
        first, chosen = self.drawn(anchors, candidates, self.roi_heads.samples, truth)
        second, masks = self.roi_heads.samples_of(pyramid, chosen, truth)
        return DetectionOutput((), (), (), (), size, training_of(second, masks, first))

    def translate(self, key: str) -> str:
        key = renamed(key, self.published)
        if key.startswith("backbone."):
            return super().translate(key)
        if isinstance(self.fpn.laterals[0], ConvNormAct):
            return renamed(key, FPN_BLOCKS)
        return renamed(key, FPN_CONVOLUTIONS)

    def classifiers(self) -> list[nn.Module]:
        return self.roi_heads.classifiers()


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
        num_classes: of objects; the background is not a class.
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
        RoIHeads(num_classes, HeadSettings(channels, hidden, samples=samples, most=detections)),
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
        RoIHeads(num_classes, HeadSettings(channels, hidden, 4, 1, norm, samples, detections)),
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

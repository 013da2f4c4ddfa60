"""HTC (Chen et al.: Hybrid Task Cascade for Instance Segmentation, CVPR 2019, arXiv 1901.07518): three stages of boxes
and masks in turn, and a branch for the context of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.cascade_heads import STRIDE, CascadeHeads, SemanticContext
from segmodels.layers.fpn import FPN
from segmodels.layers.matching import Objects
from segmodels.layers.roi_heads import HeadSettings
from segmodels.layers.rpn import RegionProposals
from segmodels.layers.sampling import drawn_of
from segmodels.models.registry import Card, register_model
from segmodels.models.two_stage import SIDES, STRIDES, Detector, check_sides, detected, every_second, training_of
from segmodels.outputs import DetectionOutput, PointPrediction

PAPER = "Chen et al.: Hybrid Task Cascade for Instance Segmentation, CVPR 2019, arXiv 1901.07518"
LOSSES = {"detection": 1.0, "points": 1.0}
STAGE_WEIGHTS = (0.5, 0.25)
"""Weights of the losses of the second and third stage; the first has 1 (section 3.5), and so has the context."""


class HybridTaskCascade(Detector):
    """A detector with three stages of heads (``CascadeHeads``), which may read a map of the context of pixels.

    In training its output is the first stage's, and the auxiliary ones are the others'; what the context says of the
    classes of pixels is ``points`` among the extras, one in each cell of 8 x 8 pixels.
    """

    def __init__(
        self,
        encoder: Encoder,
        fpn: FPN,
        rpn: RegionProposals,
        roi_heads: CascadeHeads,
        context: SemanticContext | None,
    ) -> None:
        super().__init__(encoder, fpn, rpn)
        self.roi_heads = roi_heads
        self.context = context

    def detect(
        self,
        pyramid: Sequence[Tensor],
        padded: tuple[int, int],
        size: tuple[int, int],
        truth: Objects | None,
    ) -> DetectionOutput:
        maps = [*pyramid, every_second(pyramid[-1])]
        proposals, anchors = self.rpn(maps, padded, size)
        context = None if self.context is None else self.context(maps)
        if truth is None:
            return detected(self.roi_heads.detect(pyramid, context, proposals.of_images(), size), size)
        of_anchors = self.rpn.draw(anchors, truth)
        boxes = self.roi_heads.boxes_of_stages(pyramid, context, proposals, truth, size)
        own, *others = drawn_of(of_anchors, *(draw for stage in boxes for draw in (stage.draw, stage.mask_draw)))
        first = self.rpn.samples_of(anchors, own, truth)
        samples = self.roi_heads.samples_of(pyramid, context, boxes, others, truth)
        stages = [training_of(*pair, first if number == 0 else None) for number, pair in enumerate(samples)]
        whole, *further = (DetectionOutput((), (), (), (), size, training) for training in stages)
        extras = {} if context is None else {"points": points_of_cells(context.logits, size)}
        return whole._replace(auxiliary=tuple(further), extras=extras)

    def classifiers(self) -> list[nn.Module]:
        layers = self.roi_heads.classifiers()
        return layers if self.context is None else [*layers, self.context.logits]


def points_of_cells(logits: Tensor, size: tuple[int, int]) -> PointPrediction:
    """Logits ``(B, S, h, w)`` of cells of 8 x 8 pixels as points: of the cells whose centre lies in an image of this
    height and width, or of the first where the image is smaller.
    """
    height, width = (max((length + STRIDE // 2 - 1) // STRIDE, 1) for length in size)
    y = ((torch.arange(height, device=logits.device) + 0.5) * STRIDE / size[0]).clamp(max=1)
    x = ((torch.arange(width, device=logits.device) + 0.5) * STRIDE / size[1]).clamp(max=1)
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
    return PointPrediction(logits[:, :, :height, :width].flatten(2), centres.expand(len(logits), -1, -1))


@register_model(
    "htc_r50_fpn",
    Card(
        PAPER,
        2019,
        tasks=("instance",),
        losses=LOSSES,
        auxiliary_weights=STAGE_WEIGHTS,
        least_classes=1,
        parameters=77_456_190,
        num_classes=80,
        gmac=252.63,
        source=(
            "mmdetection 3.3 htc_r50_fpn, counted: 80,258,293 with the context of COCO-Stuff's 183 classes, without it"
            " 2,802,103 fewer; GMAC of 1,000 proposals and 100 detections, own count"
        ),
        result="COCO test-dev: mask AP 38.4 (paper, abstract)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def htc_r50_fpn(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    semantic_classes: int = 0,
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> HybridTaskCascade:
    """On ResNet-50 with the feature pyramid of Mask R-CNN.

    Args:
        semantic_classes: of the pixels, things included, for the branch of the context; 0: without it.
        channels, hidden, sides, samples, detections: as of ``mask_rcnn_r50_fpn``; samples are of each stage.

    Raises:
        InputError: not a side for each map.
    """
    check_sides(sides)
    encoder = body.build(in_channels)
    return HybridTaskCascade(
        encoder,
        FPN(encoder.channels_at(STRIDES), channels),
        RegionProposals(channels, sides),
        CascadeHeads(num_classes, HeadSettings(channels, hidden, samples=samples, most=detections)),
        SemanticContext(len(sides), channels, semantic_classes) if semantic_classes else None,
    )

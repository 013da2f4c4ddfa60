"""PointRend (Kirillov et al.: PointRend: Image Segmentation as Rendering, CVPR 2020, arXiv 1912.08193), semantic
segmentation on a feature pyramid.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.blocks import resize
from segmodels.layers.fpn import FPN, SemanticBranch
from segmodels.layers.names import FPN as FPN_NAMES
from segmodels.layers.names import SEMANTIC_BRANCH, Names
from segmodels.layers.points import least_certain, replaced, sample_points, training_points
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput, PointPrediction

PAPER = "Kirillov et al.: PointRend: Image Segmentation as Rendering, CVPR 2020, arXiv 1912.08193"
STRIDES = (4, 8, 16, 32)


def uncertainty(logits: Tensor) -> Tensor:
    """How close the two likeliest classes are, 0 at most: ``(B, C, ...)`` to ``(B, ...)`` (section 5)."""
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    return second - first


class PointHead(nn.Module):
    """The classes of single points by an MLP shared by all of them: fine features ``(B, F, N)`` and coarse logits ``(B,
    C, N)`` to logits ``(B, C, N)``.

    Every layer sees the coarse logits again (section 4, "architecture").
    """

    def __init__(self, features: int, num_classes: int, channels: int = 256, layers: int = 3) -> None:
        super().__init__()
        widths = [features, *[channels] * layers]
        self.fcs = nn.ModuleList(nn.Conv1d(before + num_classes, after, 1) for before, after in pairwise(widths))
        self.fc_seg = nn.Conv1d(channels + num_classes, num_classes, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = fine
        for layer in self.fcs:
            x = torch.relu(layer(torch.cat([x, coarse], dim=1)))
        return self.fc_seg(torch.cat([x, coarse], dim=1))


class PointRend(Model):
    """Semantic FPN gives coarse logits at stride 4, a point head on the finest level of the pyramid those of points
    where they are uncertain.

    In training ``logits`` are the coarse ones, and ``points`` are random points, more of them where the coarse logits
    are uncertain, for the loss ``points`` (weight 1 in the paper). In evaluation the coarse logits are doubled in size,
    step by step, and at each step those of the most uncertain pixels are the point head's. Any input size.

    Args:
        points, oversampling, importance: N, k and β of the training's points (section 3.1).
        steps: doublings in evaluation; 2 come back to the input's size.
        pixels: refined at each step: 8096 in the paper (section 5), 8196 in mmseg.
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.0\.", ""),
        (r"^decode_head\.1\.fcs\.(\d)\.conv\.", r"point_head.fcs.\1."),
        (r"^decode_head\.1\.", "point_head."),
        *FPN_NAMES,
        *SEMANTIC_BRANCH,
    )

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        points: int = 2048,
        oversampling: int = 3,
        importance: float = 0.75,
        steps: int = 2,
        pixels: int = 8196,
    ) -> None:
        super().__init__()
        self.points = points
        self.oversampling = oversampling
        self.importance = importance
        self.steps = steps
        self.pixels = pixels
        self.encoder = encoder
        self.fpn = FPN(encoder.channels_at(STRIDES), 256)
        self.branch = SemanticBranch(4, 256, 128, nn.BatchNorm2d)
        self.conv_seg = nn.Conv2d(128, num_classes, 1)
        self.point_head = PointHead(256, num_classes)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        size = images.shape[-2:]
        pyramid = self.fpn(self.encoder.maps(images, STRIDES))
        coarse = self.conv_seg(self.branch(pyramid))
        if not self.training:
            return PixelOutput(resize(self.subdivide(pyramid[0], coarse), size))
        with torch.no_grad():
            coordinates = training_points(
                lambda candidates: uncertainty(sample_points(coarse, candidates)),
                len(coarse),
                self.points,
                self.oversampling,
                self.importance,
                coarse.device,
            )
        points = PointPrediction(self.refine(pyramid[0], coarse, coordinates), coordinates)
        return PixelOutput(resize(coarse, size), extras={"points": points})

    def classifiers(self) -> list[nn.Module]:
        return [self.conv_seg, self.point_head.fc_seg]

    def refine(self, fine: Tensor, coarse: Tensor, coordinates: Tensor) -> Tensor:
        """Logits ``(B, C, N)`` of points, from the finest features and the coarse logits there."""
        return self.point_head(sample_points(fine, coordinates), sample_points(coarse, coordinates))

    def subdivide(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Coarse logits at ``2 ** steps`` times their size, refined where they are uncertain (section 3.1,
        "inference").
        """
        logits = coarse
        for _ in range(self.steps):
            logits = resize(logits, (2 * logits.shape[-2], 2 * logits.shape[-1]))
            places, coordinates = least_certain(uncertainty(logits), self.pixels)
            logits = replaced(logits, places, self.refine(fine, coarse, coordinates))
        return logits


@register_model(
    "pointrend_r50",
    Card(
        PAPER,
        2020,
        parameters=28_715_119,
        num_classes=19,
        gmac=48.82,
        source="mmsegmentation 1.2.2 pointrend_r50, counted",
        result="Cityscapes val: mIoU 76.47 (mmsegmentation)",
        losses={"cross_entropy": 1.0, "points": 1.0},
    ),
)
def pointrend_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50", options=DEEP_STEM)
) -> PointRend:
    """ResNet-50 with a deep stem, a feature pyramid with batch norm in its semantic branch."""
    return PointRend(body.build(in_channels), num_classes)

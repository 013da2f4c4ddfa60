"""PANet (Liu et al.: Path Aggregation Network for Instance Segmentation, CVPR 2018, arXiv 1803.01534): Mask R-CNN with
a second path through the pyramid, boxes that read all of its maps, and a mask branch with a fully connected part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct, relu
from segmodels.layers.fpn import FPN
from segmodels.layers.roi_heads import HeadSettings, RoIHeads, cells_of_map, initialise
from segmodels.layers.rpn import RegionProposals
from segmodels.models.mask_rcnn import MaskRCNN
from segmodels.models.registry import Card, register_model
from segmodels.models.two_stage import SIDES, STRIDES, check_sides

PAPER = "Liu et al.: Path Aggregation Network for Instance Segmentation, CVPR 2018, arXiv 1803.01534"
MASK = 28  # cells per side


class PathAggregation(FPN):
    """A feature pyramid, and behind it a path from its finest map to its coarsest: each map is halved by a 3x3
    convolution, added to the next one, and goes through another (section 3.1).
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__(in_channels, channels)
        steps = len(in_channels) - 1
        self.down = nn.ModuleList(ConvNormAct(channels, channels, stride=2, norm=None) for _ in range(steps))
        self.fused = nn.ModuleList(ConvNormAct(channels, channels, norm=None) for _ in range(steps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        first, *rest = super().forward(maps)
        found = [first]
        for down, fused, x in zip(self.down, self.fused, rest, strict=True):
            found.append(fused(x + down(found[-1])))
        return found


class AdaptiveHeads(RoIHeads):
    """Heads that read every box from all maps (adaptive feature pooling, section 3.2): the first layer of each branch
    has weights of its own for each map, then the largest of the maps' values counts. A fully connected part adds a mask
    of the object, whatever its class, to the masks of all classes (section 3.3).

    Args:
        num_classes: of objects, without the background.
        levels: maps of the pyramid.
    """

    def __init__(self, num_classes: int, settings: HeadSettings, levels: int) -> None:
        super().__init__(num_classes, settings)
        channels, hidden = settings.channels, settings.hidden
        self.box_first = nn.ModuleList(nn.Linear(channels * 7 * 7, hidden) for _ in range(levels))
        self.box_head = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mask_first = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))
        self.mask_head = nn.Sequential(nn.ReLU(), *(ConvNormAct(channels, channels, norm=None) for _ in range(2)))
        self.mask_last = ConvNormAct(channels, channels, norm=None)
        self.mask_whole = nn.Sequential(
            ConvNormAct(channels, channels, norm=None, activation=relu),
            ConvNormAct(channels, channels // 2, norm=None, activation=relu),
            nn.Flatten(),
            nn.Linear(channels // 2 * 14 * 14, MASK * MASK),
        )
        initialise(self)

    def box_features(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        found = [
            first(cells_of_map(features, boxes, 7, stride).flatten(1))
            for first, features, stride in zip(self.box_first, pyramid, STRIDES, strict=True)
        ]
        return self.box_head(torch.stack(found).amax(dim=0))

    def mask_logits(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        found = [
            first(cells_of_map(features, boxes, 14, stride))
            for first, features, stride in zip(self.mask_first, pyramid, STRIDES, strict=True)
        ]
        features = self.mask_head(torch.stack(found).amax(dim=0))
        whole = self.mask_whole(features).view(-1, 1, MASK, MASK)
        return self.masks(self.mask_up(self.mask_last(features))) + whole


@register_model(
    "panet_r50",
    Card(
        PAPER,
        2018,
        tasks=("instance",),
        losses={"detection": 1.0},
        least_classes=1,
        parameters=108_804_549,
        num_classes=80,
        gmac=215.34,
        source="own count; GMAC of 1,000 proposals and 100 detections",
        result="COCO test-dev: mask AP 36.6, with several scales in training 38.2 (paper, table 1)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def panet_r50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> MaskRCNN:
    """On ResNet-50, without the heavier head of boxes. Options as of ``mask_rcnn_r50_fpn``."""
    check_sides(sides)
    encoder = body.build(in_channels)
    return MaskRCNN(
        encoder,
        PathAggregation(encoder.channels_at(STRIDES), channels),
        RegionProposals(channels, sides),
        AdaptiveHeads(num_classes, HeadSettings(channels, hidden, samples=samples, most=detections), len(STRIDES)),
    )

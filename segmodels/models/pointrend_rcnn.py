"""PointRend for instances (Kirillov et al.: PointRend: Image Segmentation as Rendering, CVPR 2020, arXiv 1912.08193,
section 4): Mask R-CNN whose masks are a coarse 7 x 7 prediction, refined at points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmodels.device import constant
from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.fpn import FPN
from segmodels.layers.matching import Objects
from segmodels.layers.points import (
    cell_centres,
    least_certain,
    points_in_boxes,
    replaced,
    sample_points,
    training_points,
)
from segmodels.layers.roi_heads import STRIDE, BoxHeads, HeadSettings, MaskSamples, initialise, true_shares
from segmodels.layers.rpn import RegionProposals
from segmodels.layers.sampling import BoxesOfObjects
from segmodels.models.mask_rcnn import MaskRCNN
from segmodels.models.pointrend import PAPER, PointHead
from segmodels.models.registry import Card, register_model
from segmodels.models.two_stage import SIDES, STRIDES, check_sides

COARSE = 7  # cells per side of the coarse masks


class PointRendHeads(BoxHeads):
    """Heads whose masks come from the finest map of the pyramid: a fully connected head on a grid of 14 x 14 points of
    each box gives coarse masks of all classes, a point head refines the mask of the box's class.

    In training points are random, more of them where the coarse mask is uncertain; their logits are the further output
    ``points``. In evaluation the coarse mask is doubled in size step by step, and at each step the logits of the most
    uncertain pixels are the point head's.

    Args:
        num_classes: of objects, without the background.
        points, oversampling, importance: N, k and β of the training's points (section 3.1).
        steps: doublings in evaluation, 5 from 7 x 7 to 224 x 224.
        pixels: refined at each step.
    """

    def __init__(
        self,
        num_classes: int,
        settings: HeadSettings,
        points: int = 14**2,
        oversampling: int = 3,
        importance: float = 0.75,
        steps: int = 5,
        pixels: int = 28**2,
    ) -> None:
        super().__init__(num_classes, settings)
        channels, hidden = settings.channels, settings.hidden
        self.points = points
        self.oversampling = oversampling
        self.importance = importance
        self.steps = steps
        self.pixels = pixels
        self.mask_head = nn.Sequential(
            ConvNormAct(channels, channels, 2, stride=2, padding=0, norm=None),
            nn.Flatten(),
            nn.Linear(channels * COARSE**2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        initialise(self.mask_head)
        self.masks = nn.Linear(hidden, num_classes * COARSE**2)
        self.point_head = PointHead(channels, num_classes, channels)

    def mask_logits(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Coarse masks of all K boxes and of each class, ``(K, C, 7, 7)``."""
        grid = cell_centres(2 * COARSE, pyramid[0].device)
        values = fine_features(pyramid[0], boxes, [grid.expand(len(box), -1, -1) for box in boxes])
        features = self.mask_head(values.unflatten(2, (2 * COARSE, 2 * COARSE)))
        return self.masks(features).unflatten(1, (-1, COARSE, COARSE))

    def classifiers(self) -> list[nn.Module]:
        return [*super().classifiers(), self.masks, self.point_head.fc_seg]

    def masks_of(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
        coarse = self.mask_logits(pyramid, boxes).split([len(box) for box in boxes])
        return [
            self._subdivide(pyramid[0][place : place + 1], *image)
            for place, image in enumerate(zip(boxes, labels, coarse, strict=True))
        ]

    def mask_samples(self, pyramid: Sequence[Tensor], sampled: BoxesOfObjects, truth: Objects) -> MaskSamples:
        coarse = self.mask_logits(pyramid, sampled.boxes)
        own = _of_class(coarse, sampled.labels)
        with torch.no_grad():
            coordinates = training_points(
                lambda candidates: -sample_points(own[:, None], candidates)[:, 0].abs(),
                len(own),
                self.points,
                self.oversampling,
                self.importance,
                own.device,
            )
        by_image = coordinates.split([len(box) for box in sampled.boxes])
        fine = fine_features(pyramid[0], sampled.boxes, by_image)
        logits = _of_class(self.point_head(fine, sample_points(coarse, coordinates)), sampled.labels)
        owners = truth.among_all(sampled.images, sampled.owners)
        covered = _covered(torch.cat(truth.masks), owners, points_in_boxes(torch.cat(sampled.boxes), coordinates))
        return MaskSamples(own, true_shares(sampled, truth, COARSE), {"points": (logits, covered)})

    def _subdivide(self, fine: Tensor, boxes: Tensor, labels: Tensor, coarse: Tensor) -> Tensor:
        """Refined logits ``(N, m, m)`` of the boxes of one image, whose finest map is ``(1, F, h, w)``."""
        logits = _of_class(coarse, labels)
        for _ in range(self.steps):
            logits = resize(logits[:, None], (2 * logits.shape[1], 2 * logits.shape[2]))
            places, coordinates = least_certain(-logits[:, 0].abs(), self.pixels)
            features = fine_features(fine, [boxes], [coordinates])
            values = _of_class(self.point_head(features, sample_points(coarse, coordinates)), labels)
            logits = replaced(logits, places, values[:, None])[:, 0]
        return logits


def fine_features(finest: Tensor, boxes: Sequence[Tensor], coordinates: Sequence[Tensor]) -> Tensor:
    """Values ``(K, F, N)`` of the map ``(B, F, h, w)`` at stride 4 at ``coordinates`` ``(n, N, 2)`` of the boxes ``(n,
    4)`` of each image, x and y as shares of the box's width and height.
    """
    extent = STRIDE * constant((finest.shape[3], finest.shape[2]), finest.device, boxes[0].dtype)
    found = []
    for place, (box, own) in enumerate(zip(boxes, coordinates, strict=True)):
        points = points_in_boxes(box, own) / extent
        values = sample_points(finest[place : place + 1], points.flatten(0, 1)[None])[0]
        found.append(values.unflatten(1, points.shape[:2]).transpose(0, 1))
    return torch.cat(found)


def _of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of each row's class ``(K,)`` among logits ``(K, C, ...)``: ``(K, ...)``."""
    return logits[torch.arange(len(labels), device=labels.device), labels]


def _covered(masks: Tensor, owners: Tensor, points: Tensor) -> Tensor:
    """Whether the masks ``owners`` ``(K,)`` of ``(G, H, W)`` bool cover the pixels that points ``(K, N, 2)`` lie on: 0
    or 1, ``(K, N)``.
    """
    height, width = masks.shape[1:]
    x, y = points.long().unbind(dim=2)
    lines = owners[:, None] * height + y.clamp(0, height - 1)
    return masks.take(lines * width + x.clamp(0, width - 1)).float()


@register_model(
    "pointrend_rcnn_r50_fpn",
    Card(
        PAPER,
        2020,
        tasks=("instance",),
        losses={"detection": 1.0},
        least_classes=1,
        parameters=60_219_012,
        num_classes=80,
        gmac=161.48,
        source="own count, of the layers that section 4 states; GMAC of 1,000 proposals and 100 detections",
        result="COCO val2017: mask AP 36.3 (paper, table 1)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def pointrend_rcnn_r50_fpn(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50"),
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> MaskRCNN:
    """On ResNet-50, masks of 224 x 224. Options as of ``mask_rcnn_r50_fpn``."""
    check_sides(sides)
    encoder = body.build(in_channels)
    return MaskRCNN(
        encoder,
        FPN(encoder.channels_at(STRIDES), channels),
        RegionProposals(channels, sides),
        PointRendHeads(num_classes, HeadSettings(channels, hidden, samples=samples, most=detections)),
    )

"""A one-stage detector with masks: YOLACT's prototypes and coefficients (Bolya et al.: YOLACT: Real-time Instance
Segmentation, ICCV 2019, arXiv 1904.02689) on a cross-stage partial Darknet (Wang 2020, 1911.11929) with path
aggregation (Liu 2018, 1803.01534) and the anchors of YOLOv3 (Redmon 2018, 1804.02767).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.anchors import centred_anchors, clip, decode
from segmodels.layers.blocks import check_positive, resize
from segmodels.layers.cross_stage import ConvNormSiLU, PartialAggregation
from segmodels.layers.matching import objects_of
from segmodels.layers.nms import fast_nms
from segmodels.layers.padding import zeros_to_multiple
from segmodels.layers.points import cell_centres, points_in_boxes, sample_points
from segmodels.layers.prototype_samples import CODING, classes_of_places, prototype_samples
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import DetectionOutput, DetectionTraining, Sampled

PAPER = "Bolya et al.: YOLACT: Real-time Instance Segmentation, ICCV 2019, arXiv 1904.02689"
STRIDES = (8, 16, 32)
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Width and height in pixels of the anchors on each map: the clusters of COCO's boxes (YOLOv3, section 2.3)."""

CANDIDATES = 400  # boxes of an image that compete
CELLS = 56  # of a mask over its box, per side


class Predictions(NamedTuple):
    """Outputs of the network for the A anchors of every image."""

    classes: Tensor  # (B, A, C + 1) logits, the background first
    deltas: Tensor  # (B, A, 4) coded boxes
    coefficients: Tensor  # (B, A, P), -1..1
    prototypes: Tensor  # (B, P, h, w) at stride 4, at least 0


class YoloMask(Model):
    """At every place of three maps and for each anchor there: class, box, and the coefficients by which prototypes add
    up to the logits of the object's mask, which counts inside the box.

    An anchor stands for an object from an IoU of 0.5 on and for the background below 0.4, crowds for neither; in
    training the background with the largest loss counts (section 4), and a further head tells the classes of places
    (section 5). Every image has the same number of detections: duplicates have the score 0. Any input size: images are
    padded with the mean colour, on the right and below, to a multiple of 32.

    Args:
        layers: of the blocks of the path aggregation.
        width: channels of the branch of prototypes.
        prototypes: how many.
        anchors: of each map, width and height of each anchor in pixels.
        detections: of an image.
        overlap: largest IoU of two detections of one class.
    """

    exportable_sizes: ClassVar[bool] = False  # halved maps and their neighbours

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        layers: int,
        width: int,
        prototypes: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        detections: int,
        overlap: float = 0.5,
    ) -> None:
        super().__init__()
        _check_anchors(anchors)
        check_positive("detections", detections)
        self.anchors = anchors
        self.detections = detections
        self.overlap = overlap
        self.encoder = encoder
        channels = encoder.channels_at(STRIDES)
        self.neck = PartialAggregation(channels, layers)

        def heads(numbers: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Conv2d(own, len(sizes) * numbers, 1) for own, sizes in zip(channels, anchors, strict=True)
            )

        self.classes = heads(num_classes + 1)
        self.deltas = heads(4)
        self.coefficients = heads(prototypes)
        self.prototypes_before = ConvNormSiLU(channels[0], width)
        self.prototypes_after = nn.Sequential(ConvNormSiLU(width, width), nn.Conv2d(width, prototypes, 1), nn.ReLU())
        self.semantic = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> DetectionOutput:
        size = (images.shape[2], images.shape[3])
        images = zeros_to_multiple(images, STRIDES[-1])
        maps = self.neck(self.encoder.maps(images, STRIDES))
        anchors = centred_anchors([(x.shape[2], x.shape[3]) for x in maps], STRIDES, self.anchors, images.device)
        predictions = self._predictions(maps)
        if self.training and guide is not None:
            return DetectionOutput((), (), (), (), size, self._samples(predictions, maps[0], anchors, guide.segments))
        return self._detected(predictions, anchors, size)

    def classifiers(self) -> list[nn.Module]:
        return [*self.classes, self.semantic]

    def _predictions(self, maps: Sequence[Tensor]) -> Predictions:
        classes, deltas, coefficients = (
            torch.cat(
                [_by_anchor(head(x), len(own)) for head, x, own in zip(heads, maps, self.anchors, strict=True)], 1
            )
            for heads in (self.classes, self.deltas, self.coefficients)
        )
        finest = self.prototypes_before(maps[0])
        doubled = resize(finest, [2 * length for length in finest.shape[-2:]])
        return Predictions(classes, deltas, coefficients.tanh(), self.prototypes_after(doubled))

    def _samples(
        self, predictions: Predictions, finest: Tensor, anchors: Tensor, segments: Sequence[Any]
    ) -> DetectionTraining:
        """Outputs and targets for the losses."""
        samples, masks = prototype_samples(*predictions, anchors, objects_of(segments))
        semantic = self.semantic(finest)
        return DetectionTraining(
            classes=Sampled(samples.scores, samples.labels),
            boxes=Sampled(samples.deltas, samples.true_deltas),
            masks=Sampled(*masks),
            further={"places": Sampled(semantic, classes_of_places(segments, semantic))},
        )

    @torch.no_grad()
    def _detected(self, predictions: Predictions, anchors: Tensor, size: tuple[int, int]) -> DetectionOutput:
        """The best detections of each image, as many tensors as the output has, each ``(B, detections, ...)``."""
        scores, labels = predictions.classes.float().softmax(dim=2)[..., 1:].max(dim=2)
        scores, best = scores.topk(torch.sym_min(CANDIDATES, scores.shape[1]), dim=1)
        labels, deltas = labels.gather(1, best), _rows(predictions.deltas, best)
        boxes = decode(deltas.float().flatten(0, 1), anchors[best].flatten(0, 1), CODING).view_as(deltas)
        boxes = clip(boxes, size)
        scores = scores.masked_fill(fast_nms(boxes, labels, self.overlap), 0)
        scores, kept = scores.topk(torch.sym_min(self.detections, scores.shape[1]), dim=1)
        boxes, labels, best = _rows(boxes, kept), labels.gather(1, kept), best.gather(1, kept)
        masks = _masks(predictions.prototypes, _rows(predictions.coefficients, best), boxes)
        return DetectionOutput(boxes, scores, labels, masks, size)


def _by_anchor(outputs: Tensor, anchors: int) -> Tensor:
    """Outputs ``(B, anchors * n, h, w)`` in the order of the anchors, ``(B, h * w * anchors, n)``."""
    return outputs.unflatten(1, (anchors, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """Rows of ``(B, A, n)`` at places ``(B, K)``: ``(B, K, n)``."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def _masks(prototypes: Tensor, coefficients: Tensor, boxes: Tensor) -> Tensor:
    """Logits ``(B, K, CELLS, CELLS)`` over boxes ``(B, K, 4)``: sums of prototypes by coefficients ``(B, K, P)``,
    interpolated at the centres of the cells.
    """
    mixed = torch.einsum("bkp,bphw->bkhw", coefficients, prototypes).flatten(0, 1)
    x, y = points_in_boxes(boxes.flatten(0, 1), cell_centres(CELLS, boxes.device)).unbind(dim=2)
    shares = torch.stack([x / (4 * mixed.shape[2]), y / (4 * mixed.shape[1])], dim=2)
    values = sample_points(mixed[:, None], shares)
    return values.view(*boxes.shape[:2], CELLS, CELLS)


def _check_anchors(anchors: Sequence[Sequence[Sequence[float]]]) -> None:
    pairs = [pair for own in anchors for pair in own]
    positive = all(0 < side < math.inf for pair in pairs for side in pair)
    if len(anchors) != len(STRIDES) or not all(anchors) or any(len(pair) != 2 for pair in pairs) or not positive:
        raise InputError(
            f"anchors is {[list(map(list, own)) for own in anchors]}, expected for each of {len(STRIDES)} maps, at"
            f" strides {', '.join(map(str, STRIDES))}, a list of pairs of positive numbers: width and height in pixels"
        )


RECIPE: dict[str, Any] = {
    "losses": {"one_stage_detection": 1.0},
    "least_classes": 1,
    "num_classes": 80,
    "size": (640, 640),
    "source": "own count",
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 5e-4,
    "batch_size": 8,
}


@register_model("yolo_mask_n", Card(PAPER, 2019, parameters=1_996_717, gmac=3.62, tasks=("instance",), **RECIPE))
def yolo_mask_n(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("csp_darknet_n"),
    layers: int = 1,
    width: int = 64,
    prototypes: int = 32,
    anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
    detections: int = 100,
) -> YoloMask:
    """A quarter of the channels, a third of the layers.

    Args:
        num_classes: of objects; the background is not a class.
        layers: of the blocks behind the encoder.
        width: channels of the branch of prototypes.
        prototypes: maps that masks are sums of.
        anchors: for the maps at strides 8, 16 and 32, width and height in pixels of each anchor.
        detections: largest number of detections in an image.

    Raises:
        InputError: anchors that are not pairs of positive numbers for each of the three maps.
    """
    return YoloMask(body.build(in_channels), num_classes, layers, width, prototypes, anchors, detections)


@register_model("yolo_mask_s", Card(PAPER, 2019, parameters=7_631_565, gmac=13.26, tasks=("instance",), **RECIPE))
def yolo_mask_s(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("csp_darknet_s"),
    layers: int = 1,
    width: int = 128,
    prototypes: int = 32,
    anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
    detections: int = 100,
) -> YoloMask:
    """Half of the channels, a third of the layers. Options as of ``yolo_mask_n``."""
    return yolo_mask_n(num_classes, in_channels, body, layers, width, prototypes, anchors, detections)


@register_model("yolo_mask_m", Card(PAPER, 2019, parameters=22_005_805, gmac=35.5, tasks=("instance",), **RECIPE))
def yolo_mask_m(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("csp_darknet_m"),
    layers: int = 2,
    width: int = 192,
    prototypes: int = 32,
    anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
    detections: int = 100,
) -> YoloMask:
    """Three quarters of the channels, two thirds of the layers. Options as of ``yolo_mask_n``."""
    return yolo_mask_n(num_classes, in_channels, body, layers, width, prototypes, anchors, detections)


@register_model("yolo_mask_l", Card(PAPER, 2019, parameters=47_945_485, gmac=73.94, tasks=("instance",), **RECIPE))
def yolo_mask_l(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("csp_darknet_l"),
    layers: int = 3,
    width: int = 256,
    prototypes: int = 32,
    anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
    detections: int = 100,
) -> YoloMask:
    """64 to 1024 channels. Options as of ``yolo_mask_n``."""
    return yolo_mask_n(num_classes, in_channels, body, layers, width, prototypes, anchors, detections)

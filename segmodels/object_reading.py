"""How objects and panoptic maps are read from what models say: the inference rules of the papers, on plain tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segmodels import run_lengths
from segmodels.annotations import Segment
from segmodels.checks import check, number, optional, whole_number
from segmodels.layers.blocks import resize
from segmodels.layers.nms import batched_nms
from segmodels.object_views import ObjectView, Window
from segmodels.results import Instances, PanopticMap
from segmodels.run_lengths import Crop
from segmodels.windows import SlidingWindow

Size = tuple[int, ...]


class Frame(NamedTuple):
    """Masks of a square, of ``side`` pixels, that has an image of ``height`` x ``width`` in its upper left corner."""

    side: int
    height: int
    width: int


CHUNK = 16  # masks at the size of the image, at a time


@dataclass(frozen=True)
class InstanceSettings:
    """How objects are predicted.

    Attributes:
        score: smallest score of an object, 0 to 1. None: 0.05 for detections (Girshick's Detectron), no limit for
            queries. Detectors in two stages (Mask R-CNN) give none below 0.05, whatever is asked for.
        overlap: largest IoU of the boxes of two detections of one class, 0 to 1; above it the worse one is dropped.
            Detectors drop those above 0.5 themselves, so that only smaller numbers change anything. Queries do not
            compete.
        most: largest number of objects in an image, with a sliding window in each window; those with the best scores
            are kept. Detectors give no more than their option detections (100), which is in train.options.
        sure: score from which an object is drawn, proposed as an annotation and enters the confusion matrix, 0 to 1.
            None: the one with the largest F1 at IoU 0.5 on the validation images, found when the model was trained.
        flip: average the objects with those of the mirrored image, of each window if there are windows: boxes of one
            class with an IoU of at least 0.5 are one object; one that only one of both shows gets half its score.
        sliding_window: predict overlapping windows and join the objects that a border cuts. None: whole images.
    """

    score: float | None = None
    overlap: float = 0.5
    most: int = 100
    sure: float | None = None
    flip: bool = False
    sliding_window: SlidingWindow | None = None

    def __post_init__(self) -> None:
        share = optional(number(0, 1))
        check(self, score=share, overlap=number(0, 1), most=whole_number(1, 100_000), sure=share)


@dataclass(frozen=True)
class PanopticSettings:
    """How panoptic maps are predicted: of queries as MaskFormer does it (Cheng 2021, 2107.06278, section 3.4), of
    detections as panoptic FPN (Kirillov 2019, 1901.02446, section 3).

    Attributes:
        score: smallest score of a segment (of an object, for detections), 0 to 1. None: 0.8 for queries, 0.5 for
            detections.
        visible: smallest share of a segment's mask that no better segment hides, 0 to 1. None: 0.8 for queries, 0.5 for
            detections.
        stuff_area: smallest area of a region of stuff, pixels; 4096 for panoptic FPN on COCO.
        sliding_window: predict overlapping windows, join the objects that a border cuts, and take the class of stuff
            from the window whose centre is nearest. None: whole images.
    """

    score: float | None = None
    visible: float | None = None
    stuff_area: int = 0
    sliding_window: SlidingWindow | None = None

    def __post_init__(self) -> None:
        share = optional(number(0, 1))
        check(self, score=share, visible=share, stuff_area=whole_number(0, 2**40))


@torch.no_grad()
def query_objects(class_logits: Tensor, mask_logits: Tensor, size: Size, settings: InstanceSettings) -> ObjectView:
    """The best pairs of a query and a class, each with the query's mask; a score is the class's probability times the
    mean probability of the mask's pixels (Mask2Former, Cheng 2022, 2112.01527, ``instance_inference``).

    Args:
        class_logits: ``(Q, C + 1)``, the last is "no object".
        mask_logits: ``(Q, h, w)``.
        size: height and width of the image.
    """
    probabilities = class_logits.float().softmax(dim=1)[:, :-1]
    scores, pairs = probabilities.flatten().topk(min(settings.most, probabilities.numel()))
    queries, own = pairs.div(probabilities.shape[1], rounding_mode="floor").unique(return_inverse=True)
    sure, counts = [], []
    for chosen in mask_logits[queries].split(CHUNK):
        logits = resize_logits(chosen, size)
        masks = logits > 0
        covered = (logits.sigmoid() * masks).flatten(1).sum(dim=1)
        sure.append(covered / masks.flatten(1).sum(dim=1).clamp(min=1))
        counts += run_lengths.encode(masks.cpu().numpy())
    scores = scores * torch.cat(sure)[own] if sure else scores
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > max(settings.score or 0.0, 0.0)]  # no pixel: score 0
    chosen_masks = [counts[i] for i in own[order].tolist()]
    labels = (pairs % probabilities.shape[1])[order]
    ranked = queries[own[order]].tolist()

    def inside(place: int, window: Window) -> NDArray:
        left, top, right, bottom = window
        full = resize_logits(mask_logits[ranked[place]], size)
        return np.asarray(full[top:bottom, left:right].sigmoid().cpu().numpy())

    return ObjectView(_instances(chosen_masks, scores[order], labels, size), inside)


@torch.no_grad()
def query_panoptic(
    class_logits: Tensor, mask_logits: Tensor, size: Size, things: Collection[int], settings: PanopticSettings
) -> PanopticMap:
    """Every pixel goes to the query with the largest probability of class times mask; queries that are mostly hidden
    are dropped, and those of one class of stuff are one segment (MaskFormer, Cheng 2021, 2107.06278, section 3.4).

    Args:
        class_logits: ``(Q, C + 1)``, the last is "no object".
        mask_logits: ``(Q, h, w)``.
        size: height and width of the map.
        things: those of the C classes whose objects are counted.
    """
    scores, labels = class_logits.float().softmax(dim=1).max(dim=1)
    least = 0.8 if settings.score is None else settings.score
    kept = (labels != class_logits.shape[1] - 1) & (scores > least)
    ids = torch.zeros(size, dtype=torch.int32, device=mask_logits.device)
    if not kept.any():
        return PanopticMap(ids.cpu().numpy(), ())
    probabilities = resize_logits(mask_logits[kept], size).sigmoid()
    owner = (scores[kept][:, None, None] * probabilities).argmax(dim=0)
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    least_visible = 0.8 if settings.visible is None else settings.visible
    for query, label in enumerate(labels[kept].tolist()):
        own, whole = owner == query, probabilities[query] >= 0.5
        area, mask = int(own.sum()), own & whole
        if not mask.any() or area / int(whole.sum()) < least_visible:
            continue
        if label in stuff:
            ids[mask] = stuff[label]
            continue
        segments.append(Segment(len(segments) + 1, label))
        ids[mask] = len(segments)
        if label not in things:
            stuff[label] = len(segments)
    return PanopticMap(ids.cpu().numpy(), tuple(segments)).without_small_stuff(things, settings.stuff_area)


@torch.no_grad()
def detected_objects(
    boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor, seen: Size, size: Size, settings: InstanceSettings
) -> ObjectView:
    """The best detections that do not overlap, at the size of the image.

    Args:
        boxes: ``(N, 4)`` left, top, right, bottom, in pixels of ``seen``.
        scores, labels: ``(N,)``.
        masks: ``(N, m, n)`` logits over the box.
        seen, size: height and width of the model's input, and of the image.
    """
    least = 0.05 if settings.score is None else settings.score
    good = torch.nonzero((scores >= least) & (scores > 0))[:, 0]  # duplicates have the score 0
    good = good[batched_nms(boxes[good].float(), scores[good], labels[good], settings.overlap)[: settings.most]]
    scale = boxes.new_tensor((size[1] / seen[1], size[0] / seen[0]) * 2)
    placed = (boxes[good] * scale).float().cpu()
    cells = masks[good].float().cpu()
    shape = (size[0], size[1])
    counts: dict[int, bytes] = {}
    for place, box in enumerate(placed.tolist()):
        left, top, right, bottom = window = _around(box, shape)
        if right > left and bottom > top:
            mask = _stretched(cells[place], box, window) >= 0.5
            if mask.any():
                counts[place] = run_lengths.placed(Crop(left, top, mask), shape)
    kept = list(counts)
    limit = placed.new_tensor((size[1], size[0]) * 2)
    found = Instances(
        shape,
        placed[kept].clamp(min=0).minimum(limit).numpy(),
        scores[good].float().cpu().numpy()[kept],
        labels[good].cpu().numpy()[kept],
        tuple(counts.values()),
    )

    def inside(place: int, window: Window) -> NDArray:
        return _stretched(cells[kept[place]], placed[kept[place]].tolist(), window)

    return ObjectView(found, inside)


@torch.no_grad()
def prompted_instances(mask_logits: Tensor, quality: Tensor, size: Size, frame: Frame | None = None) -> Instances:
    """The pixels with positive logits ``(N, h, w)`` of each mask, with the estimated quality ``(N,)`` as score."""
    counts: list[bytes] = []
    for chunk in mask_logits.split(CHUNK):
        masks = (framed_logits(chunk, size, frame) > 0).cpu().numpy()
        counts += run_lengths.encode(masks) if len(chunk) else []
    return _instances(counts, quality.float(), torch.zeros(len(counts), dtype=torch.int64), size)


def fuse(
    instances: Instances, things: Sequence[int], stuff: Sequence[int], classes: NDArray, settings: PanopticSettings
) -> PanopticMap:
    """Objects, best first, over stuff (panoptic FPN, Kirillov 2019, 1901.02446, section 3; Kirillov 2019, 1801.00868,
    section 7).

    Args:
        instances: labels are places in ``things``.
        things, stuff: train ids.
        classes: ``(H, W)`` places in ``stuff``; ``len(stuff)`` is "other".
    """
    ids = np.zeros(classes.shape, dtype=np.int32)
    segments: list[Segment] = []
    least = 0.5 if settings.score is None else settings.score
    visible = 0.5 if settings.visible is None else settings.visible
    for index in np.argsort(-instances.scores, kind="stable"):
        if instances.scores[index] < least:
            break
        whole = instances.mask(index)
        mask = whole & (ids == 0)
        if not mask.any() or mask.sum() / whole.sum() < visible:
            continue
        segments.append(Segment(len(segments) + 1, things[instances.labels[index]]))
        ids[mask] = len(segments)
    free = ids == 0
    for place, label in enumerate(stuff):
        mask = free & (classes == place)
        if mask.any():
            segments.append(Segment(len(segments) + 1, label))
            ids[mask] = len(segments)
    return PanopticMap(ids, tuple(segments)).without_small_stuff(things, settings.stuff_area)


def resize_logits(logits: Tensor, size: Size) -> Tensor:
    """Logits ``(..., h, w)`` in float32 at another size, bilinear."""
    full = logits.float()
    if full.shape[-2:] == tuple(size):
        return full
    shape = full.shape
    if not full.numel():  # no masks, which interpolate refuses
        return full.new_zeros(*shape[:-2], *size)
    flat = full.reshape(1, -1, *shape[-2:])
    return resize(flat, size).reshape(*shape[:-2], *size)


def framed_logits(logits: Tensor, size: Size, frame: Frame | None) -> Tensor:
    """Logits ``(..., h, w)`` of a frame's square, in float32 for its image at ``size``: at the square's own size first,
    as SAM does it. None: they are of the image alone.
    """
    if frame is not None:
        logits = resize_logits(logits, (frame.side, frame.side))[..., : frame.height, : frame.width]
    return resize_logits(logits, size)


def _instances(counts: list[bytes], scores: Tensor, labels: Tensor, size: Size) -> Instances:
    shape = (size[0], size[1])
    return Instances(shape, run_lengths.boxes(counts, shape), scores.cpu().numpy(), labels.cpu().numpy(), tuple(counts))


def _around(box: list[float], size: tuple[int, int]) -> Window:
    """The pixels of the image that a box touches; without any, right is not above left or bottom not above top."""
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return 0, 0, 0, 0
    return max(int(left), 0), max(int(top), 0), min(math.ceil(right), size[1]), min(math.ceil(bottom), size[0])


@torch.no_grad()
def _stretched(logits: Tensor, box: list[float], window: Window) -> NDArray[np.float32]:
    """Probabilities of a window's pixels ``(h, w)``, of logits ``(m, n)`` stretched over the box, bilinear between the
    centres of its cells; 0 outside the box.
    """
    left, top, right, bottom = box
    columns, rows = torch.arange(window[0], window[2]), torch.arange(window[1], window[3])
    x, y = 2 * (columns + 0.5 - left) / (right - left) - 1, 2 * (rows + 0.5 - top) / (bottom - top) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    inside = (x.abs() <= 1) & (y.abs() <= 1)[:, None]
    values = F.grid_sample(logits.sigmoid()[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
    return np.asarray((values * inside).numpy())

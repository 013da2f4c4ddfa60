"""Training steps of detectors in two stages: their time, and how often the host waits for the device in them."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting
from benchmarks.report import side_by_side
from segmodels.losses.detection import DetectionLoss
from segmodels.models.registry import create_model
from segmodels.tasks.targets import Segments, SegmentTargets

CLASSES, IMAGES, OBJECTS = 80, 4, 10


def detectors(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Milliseconds of one training step (forward and backward) of four images of 512 x 512 with ten objects each, in
    bfloat16, channels last; and how often the host waits in it. Target: no slower than torchvision's Mask R-CNN.
    """
    names = ["mask_rcnn_r50_fpn", "htc_r50_fpn", "pointrend_rcnn_r50_fpn"][: 1 if setting.rehearse else None]
    runs = {name: partial(own_step, setting, name) for name in names}
    if importlib.util.find_spec("torchvision"):
        runs["torchvision maskrcnn_resnet50_fpn"] = partial(torchvisions_step, setting)
    for name, build in runs.items():
        if name not in known:
            run = build()
            times = side_by_side({name: partial(finished, setting, run)}, rounds=9)
            yield name, {"ms": times[name], "waits": waits(setting, run)}
    if len(runs) == len(names) and "torchvision maskrcnn_resnet50_fpn" not in known:
        yield "torchvision maskrcnn_resnet50_fpn", {"skipped": "torchvision is not installed"}


def finished(setting: Setting, run: Callable[[], None]) -> None:
    run()
    setting.synchronize()


def own_step(setting: Setting, name: str) -> Callable[[], None]:
    images, scenes = scene(setting)
    size = images.shape[2:]
    valid = torch.ones(size, dtype=torch.bool, device=setting.device)
    segments = [Segments(labels, masks, valid, boxes) for boxes, masks, labels in scenes]
    guide = SegmentTargets(segments, torch.zeros(len(images), *size, dtype=torch.uint8, device=setting.device))
    model = create_model(name, CLASSES).train()
    model.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    loss = DetectionLoss().to(setting.device)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(setting.device, torch.bfloat16):
            output = model(images, guide=guide)
        torch.stack([loss(stage.training) for stage in (output, *output.auxiliary)]).sum().backward()

    return run


def torchvisions_step(setting: Setting) -> Callable[[], None]:
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    from torchvision.models.detection.image_list import ImageList

    images, scenes = scene(setting)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1).train()
    model = model.to(setting.device, memory_format=torch.channels_last)
    targets = [{"boxes": boxes, "masks": masks, "labels": labels + 1} for boxes, masks, labels in scenes]
    batch = ImageList(images, [tuple(images.shape[2:])] * len(images))

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(setting.device, torch.bfloat16):
            features = model.backbone(images)
            proposals, first = model.rpn(batch, features, targets)
            _, second = model.roi_heads(features, proposals, batch.image_sizes, targets)
        torch.stack([*first.values(), *second.values()]).sum().backward()

    return run


def scene(setting: Setting) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Images, and boxes, masks and labels of each: rectangles."""
    torch.manual_seed(0)
    side = 128 if setting.rehearse else 512
    scenes = []
    for _ in range(IMAGES):
        start = torch.rand(OBJECTS, 2) * 0.6 * side
        boxes = torch.cat([start, start + (0.05 + 0.35 * torch.rand(OBJECTS, 2)) * side], dim=1).round()
        masks = torch.zeros(OBJECTS, side, side, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        facts = boxes, masks, torch.randint(CLASSES, (OBJECTS,))
        boxes, masks, labels = (fact.to(setting.device) for fact in facts)
        scenes.append((boxes, masks, labels))
    images = torch.randn(IMAGES, 3, side, side, device=setting.device)
    return images.contiguous(memory_format=torch.channels_last), scenes


def waits(setting: Setting, run: Callable[[], None]) -> int:
    """How often the host waits for the device (0 on a CPU)."""
    if setting.device != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)

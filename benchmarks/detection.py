"""Mask R-CNN and RoIAlign beside torchvision's: ``python -m benchmarks.detection [--threads N] [--write]``.

The project itself runs on another torch than torchvision's: make an environment of ``requirements-quality.txt`` and run
this file there, from the repository's root. Both sides have the same weights and see the same batch; times of the two
alternate in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from benchmarks.report import markdown_table, side_by_side, write_section
from segmodels.layers.roi_align import roi_align
from segmodels.losses.detection import DetectionLoss
from segmodels.models.published import _named
from segmodels.models.registry import create_model
from segmodels.tasks.targets import Segments, SegmentTargets

SIZE, BATCH, OBJECTS, CLASSES = 512, 2, 10, 80
MOST = {"training step, Mask R-CNN R50-FPN, 2 x 3 x 512 x 512": 1.15, "RoIAlign": 1.5}


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, masks and labels of one image."""
    start = torch.rand(OBJECTS, 2) * (SIZE - 200)
    boxes = torch.cat([start, start + 20 + torch.rand(OBJECTS, 2) * 180], dim=1).round()
    masks = torch.zeros(OBJECTS, SIZE, SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return boxes, masks, torch.randint(CLASSES, (OBJECTS,))


def training_steps(channels_last: bool) -> dict[str, Callable[[], Any]]:
    """Forward and backward of both models with their own random samples."""
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1).train()
    ours = create_model("mask_rcnn_r50_fpn", CLASSES).train()
    ours.load_state_dict(_named(ours, theirs.state_dict(), ours.state_dict()))
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    scenes = [scene() for _ in range(BATCH)]
    targets = [{"boxes": boxes, "masks": masks, "labels": labels + 1} for boxes, masks, labels in scenes]
    valid = torch.ones(SIZE, SIZE, dtype=torch.bool)
    segments = [Segments(labels, masks, valid, boxes) for boxes, masks, labels in scenes]
    guide = SegmentTargets(segments, torch.zeros(BATCH, SIZE, SIZE, dtype=torch.uint8))
    loss = DetectionLoss()
    own_images = images
    if channels_last:  # as the project trains
        ours = ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own stub lacks it
        own_images = images.to(memory_format=torch.channels_last)

    def own() -> None:
        ours.zero_grad(set_to_none=True)
        loss(ours(own_images, guide=guide).training).backward()

    def peer() -> None:
        theirs.zero_grad(set_to_none=True)
        batch = ImageList(images, [(SIZE, SIZE)] * BATCH)
        features = theirs.backbone(images)
        proposals, first = theirs.rpn(batch, features, targets)
        _, second = theirs.roi_heads(features, proposals, batch.image_sizes, targets)
        sum({**first, **second}.values()).backward()

    return {"segmodels": own, "torchvision": peer}


def alignments(size: int, ratio: int) -> dict[str, Callable[[], Any]]:
    """RoIAlign of 512 boxes on a map at stride 8, forward and backward."""
    torch.manual_seed(0)
    features = torch.randn(BATCH, 256, SIZE // 8, SIZE // 8).requires_grad_()
    start = torch.rand(512, 2) * SIZE * 0.6
    boxes = torch.cat([start, start + 56 + torch.rand(512, 2) * SIZE * 0.3], dim=1)
    images = torch.arange(512) % BATCH
    rois = torch.cat([images[:, None], boxes], dim=1)

    def own() -> None:
        roi_align(features, boxes, images, size, 1 / 8, ratio).sum().backward()

    def peer() -> None:
        torchvision.ops.roi_align(features, rois, size, 1 / 8, ratio or -1).sum().backward()

    return {"segmodels": own, "torchvision": peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the section into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    step, align = MOST
    cases = {
        step: training_steps(channels_last=False),
        f"{step}, ours channels last": training_steps(channels_last=True),
    }
    for size in (7, 14):
        for ratio in (2, 0):
            cases[f"{align}, {size} x {size} cells, {ratio or 'adaptive'} points"] = alignments(size, ratio)
    rows = []
    for name, contenders in cases.items():
        times = side_by_side(contenders, arguments.rounds, warmup=1)
        most = MOST[step] if name.startswith(step) else MOST[align]
        rows.append([name, times["segmodels"], times["torchvision"], times["segmodels"] / times["torchvision"], most])
        print(rows[-1], flush=True)
    table = markdown_table(["case", "segmodels ms", "torchvision ms", "ratio", "at most"], rows)
    if arguments.write:
        write_section(f"Detection, {arguments.threads} threads", table, ("numpy", "torch", "torchvision"))


if __name__ == "__main__":
    main()

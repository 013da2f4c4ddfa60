"""Every object of an image, by a grid of clicks (Segment Anything, Kirillov 2023, 2304.02643, section 7.3 and appendix
B: "automatic mask generation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segmodels import run_lengths
from segmodels.layers.nms import nms
from segmodels.outputs import PromptedOutput
from segmodels.prompts import Prompts
from segmodels.results import Instances
from segmodels.tasks.base import Size

AT_ONCE = 64
"""Objects that are prompted together, in all images of a batch."""

OFFSET = 1.0
"""Distance from 0 of the two thresholds of a mask's logits whose masks are compared for its stability."""


class Settings(Protocol):
    """See ``PromptableSettings``."""

    @property
    def grid(self) -> int: ...
    @property
    def quality(self) -> float: ...
    @property
    def stability(self) -> float: ...
    @property
    def overlap(self) -> float: ...


def everything(
    answer: Callable[[Prompts], PromptedOutput], images: Tensor, sizes: Sequence[Size], settings: Settings
) -> list[Instances]:
    """The objects of each image, best first, with their estimated IoU as score; labels are 1.

    Args:
        answer: prompts -> masks, of the images.
        images: ``(B, C, H, W)``, the model's input.
        sizes: of the results, one per image.
    """
    height, width = images.shape[2:]
    places = (torch.arange(settings.grid, device=images.device) + 0.5) / settings.grid
    # the authors count in pixels, whose centres are half a pixel further
    y, x = torch.meshgrid(places * height + 0.5, places * width + 0.5, indexing="ij")
    grid = torch.stack([x, y], dim=2).reshape(-1, 1, 2)
    found: list[list[_Masks]] = [[] for _ in sizes]
    for points in grid.split(max(AT_ONCE // len(sizes), 1)):
        labels = torch.ones(len(points), 1, dtype=torch.int64, device=points.device)
        output = answer(Prompts((points,) * len(sizes), (labels,) * len(sizes)))
        for number, size in enumerate(sizes):
            found[number].append(_Masks.of(output, number, size, settings))
    return [_instances(own, size, settings.overlap) for own, size in zip(found, sizes, strict=True)]


class _Masks:
    """Good masks of one image: run-length encoded, with boxes ``(N, 4)`` and qualities ``(N,)``."""

    def __init__(self, counts: list[bytes], boxes: Tensor, quality: Tensor) -> None:
        self.counts = counts
        self.boxes = boxes
        self.quality = quality

    @classmethod
    def of(cls, output: PromptedOutput, number: int, size: Size, settings: Settings) -> _Masks:
        logits, quality = output.mask_logits[number], output.quality[number]
        if output.choices is not None:
            choices = output.choices[number]
            logits, quality = choices.mask_logits[choices.allowed], choices.quality[choices.allowed]
        quality = quality.float()
        good = quality > settings.quality
        full, quality = output.at(logits[good], size), quality[good]
        inner, outer = ((full > threshold).flatten(1).sum(dim=1) for threshold in (OFFSET, -OFFSET))
        stable = inner / outer.clamp(min=1) > settings.stability
        masks, quality = full[stable] > 0, quality[stable]
        counts = run_lengths.encode(masks.cpu().numpy()) if len(masks) else []
        return cls(counts, _boxes(masks), quality)


def _boxes(masks: Tensor) -> Tensor:
    """First column, first row, last column, last row of masks ``(N, H, W)`` with at least one pixel: ``(N, 4)`` float32
    on the CPU. The authors compare masks by these boxes.
    """
    sides = []
    for axis in (1, 2):  # columns, rows
        own = masks.any(dim=axis)
        places = torch.arange(own.shape[1], device=masks.device)
        first = torch.where(own, places, own.shape[1]).amin(dim=1)
        sides.append((first, torch.where(own, places, -1).amax(dim=1)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1).float().cpu()


def _instances(parts: list[_Masks], size: Size, overlap: float) -> Instances:
    boxes, quality = torch.cat([part.boxes for part in parts]), torch.cat([part.quality for part in parts]).cpu()
    counts = [mask for part in parts for mask in part.counts]
    kept = nms(boxes, quality, overlap)
    chosen = [counts[i] for i in kept.tolist()]
    shape = (size[0], size[1])
    return Instances(
        shape,
        run_lengths.boxes(chosen, shape),
        quality[kept].numpy(),
        np.ones(len(chosen), dtype=np.int64),
        tuple(chosen),
        sure=0.0,  # the setting ``quality`` has decided
    )

"""Counting pixels by true and predicted class where the maps are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting
from benchmarks.report import side_by_side
from segmodels.metrics import ConfusionMatrix

CLASSES, IGNORED, BATCHES = 19, 255, 8


def counters(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Milliseconds per batch of 4 x 1024 x 2048 pixels and 19 classes, 255 ignored, of which one matrix counts
    eight, by the share of wrong pixels.
    """
    shape = (1, 64, 128) if setting.rehearse else (4, 1024, 2048)
    for wrong in (0, 1, 5, 15, 50, 100):
        if (name := f"{wrong} % wrong") not in known:
            prediction, target = maps(shape, wrong / 100, setting.device)
            times = side_by_side(contenders(setting, prediction, target))
            yield name, {contender: time / BATCHES for contender, time in times.items()}


def maps(shape: tuple[int, int, int], wrong: float, device: str) -> tuple[Tensor, Tensor]:
    """Regions of 16 pixels, a share of random predictions, and the lowest tenth ignored."""
    generator = torch.Generator().manual_seed(0)
    images, height, width = shape
    coarse = torch.randint(0, CLASSES, (images, height // 16, width // 16), generator=generator)
    truth = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)
    random = torch.randint(0, CLASSES, shape, generator=generator)
    prediction = torch.where(torch.rand(shape, generator=generator) < wrong, random, truth)
    truth[:, -height // 10 :] = IGNORED
    return prediction.to(device), truth.to(device)


def contenders(setting: Setting, prediction: Tensor, target: Tensor) -> dict[str, Callable[[], object]]:
    """Each counts the same batch eight times and then waits for the device."""

    def ours() -> None:
        matrix = ConfusionMatrix(CLASSES, IGNORED)
        for _ in range(BATCHES):
            matrix.update(prediction, target)
        setting.synchronize()

    def bincount() -> None:
        counts = torch.zeros(CLASSES**2, dtype=torch.int64, device=setting.device)
        for _ in range(BATCHES):
            counted = target != IGNORED
            counts += torch.bincount(CLASSES * target[counted] + prediction[counted], minlength=CLASSES**2)
        setting.synchronize()

    runs: dict[str, Callable[[], object]] = {"segmodels": ours, "torch.bincount": bincount}
    if importlib.util.find_spec("torchmetrics"):
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        def torchmetrics() -> None:
            counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64, device=setting.device)
            for _ in range(BATCHES):
                counts += multiclass_confusion_matrix(
                    prediction, target, CLASSES, ignore_index=IGNORED, validate_args=False
                )
            setting.synchronize()

        runs["torchmetrics"] = torchmetrics
    return runs

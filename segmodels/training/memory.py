"""Whether a training fits into memory. Without this check an operating system kills it without a word."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.inference.memory import prediction_bytes, training_bytes
from segmodels.machine import free_memory
from segmodels.training.devices import Devices
from segmodels.training.settings import TrainSettings

MOST_KEPT = 25_000
"""Bytes that a model of pixels keeps for each: U-Net 3+ 21,000, most below 8,000. Finding out takes a second."""


def check_memory(
    settings: TrainSettings, devices: Devices, model: nn.Module, training: ShardReader, validation: ShardReader
) -> None:
    """Check the least memory of a step, and of the prediction of one validation image, against what is free.

    Raises:
        InputError: either needs more.
    """
    free = free_memory()
    if free is None:
        return
    values = 1 if devices.precision == "float32" else 2  # in 4 bytes, at most
    size = step_size(settings, training)
    images = min(settings.batch_size, -(-len(training) // devices.processes))  # no step has more than its epoch
    if images * math.prod(size) * MOST_KEPT > free:
        needed = training_bytes(model, (images, training.channels, *size)) // values
        fitting = int(images * free / (2 * max(needed, 1)))
        smaller = f"train.batch_size {fitting}, " if fitting else ""
        advice = f"{smaller}train.augment.crop (such as [256, 256]) or preprocess.longer_side"
        _require(needed, free, f"a step of {images} images of {_words(size)} pixels", settings.model, advice)
    size = validation.largest
    if math.prod(size) * MOST_KEPT > free:
        needed = prediction_bytes(model, (1, validation.channels, *size)) // values
        what = f"the prediction of a validation image of {_words(size)} pixels"
        _require(needed, free, what, settings.model, "preprocess.longer_side")


def _require(needed: int, free: int, what: str, model: str, advice: str) -> None:
    """Raise InputError if ``needed`` bytes are not free."""
    if needed > free:
        raise InputError(
            f"{what} needs at least {needed / 1e9:.1f} GB of memory with model {model!r}, {free / 1e9:.1f} GB are"
            f" free: set {advice}, choose a smaller model, or use a machine with more memory"
        )


def step_size(settings: TrainSettings, training: ShardReader) -> tuple[int, ...]:
    """Height and width, or depth, height and width, of the images of a step."""
    return tuple(settings.augment.crop or training.largest)


def _words(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))

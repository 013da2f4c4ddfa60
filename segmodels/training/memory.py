"""Whether a training fits into memory. Without this check an operating system kills it without a word."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from segmodels.data.shards import ShardReader
from segmodels.errors import InputError
from segmodels.machine import free_memory
from segmodels.models.memory import prediction_bytes, training_bytes
from segmodels.training.devices import Devices
from segmodels.training.settings import TrainSettings


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
    needed = training_bytes(model, (images, training.channels, *size)) // values
    if needed > free:
        fitting = int(images * free / (2 * needed))
        smaller = f"train.batch_size {fitting}, " if fitting else ""
        raise InputError(
            f"a step of {images} images of {_words(size)} pixels needs at least {_gigabytes(needed)} of"
            f" memory with model {settings.model!r}, {_gigabytes(free)} are free: set {smaller}train.augment.crop (such"
            " as [256, 256]) or preprocess.longer_side, choose a smaller model, or use a machine with more memory"
        )
    size = validation.largest
    needed = prediction_bytes(model, (1, validation.channels, *size)) // values
    if needed > free:
        raise InputError(
            f"the prediction of a validation image of {_words(size)} pixels needs at least {_gigabytes(needed)} of"
            f" memory with model {settings.model!r}, {_gigabytes(free)} are free: set preprocess.longer_side, choose a"
            " smaller model, or use a machine with more memory"
        )


def step_size(settings: TrainSettings, training: ShardReader) -> tuple[int, ...]:
    """Height and width, or depth, height and width, of the images of a step."""
    return tuple(settings.augment.crop or training.largest)


def _words(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

"""A training that starts from the weights of an earlier one."""

from __future__ import annotations

from pathlib import Path

from segmodels.errors import InputError
from segmodels.files import WEIGHTS
from segmodels.inference.description import read_description
from segmodels.models.base import Model
from segmodels.models.published import load_published


def start_from(model: Model, name: str, start: Path, channels: int) -> None:
    """Copy the weights of a trained model into ``model``; a warning names the layers that start at random, because
    they are for other classes, and those that were adapted to other channels.

    Args:
        name: of the model in the registry.
        start: folder of a trained model, or weights file of a whole model (``load_published``).
        channels: of the images.

    Raises:
        InputError: weights of another model, or damaged files.
    """
    if start.is_dir():
        description = read_description(start)
        if description["name"] != name:
            raise InputError(
                f"init is a {description['name']} and train.model {name}, expected the same model: set train.model to"
                f" {description['name']}, or leave out train.init"
            )
        start = start / WEIGHTS
    load_published(model, start, channels)

"""A trained model as a folder: ``weights.safetensors`` and ``model.json``, enough to rebuild it and to predict, and
``reference.safetensors``, statistics to compare later images with. Nothing in it is pickled, and digests in
``model.json`` show damage to any file.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from segmodels.addresses import without_credentials
from segmodels.errors import InputError, on_one_line
from segmodels.files import DESCRIPTION, REFERENCE, WEIGHTS, reading
from segmodels.finite import all_finite
from segmodels.inference.description import AGAIN, file_sha256, read_description, write_description
from segmodels.inference.reference import Reference, read_reference, write_reference
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model, known_arguments, model_options
from segmodels.tasks.base import Task
from segmodels.tasks.registry import FIRST, create_task, settings_to_dict


@dataclass(frozen=True)
class Bundle:
    """A model that is ready to predict, and the facts about its data that this takes.

    Attributes:
        model: in eval mode, on the device it was loaded to.
        name, options: of the model in the registry.
        task: what the model predicts, of which classes, and how: with the settings that it was measured with.
        mean, std: per channel, in the units of the images; images are normalised by (image - mean) / std.
        longer_side: pixels to which images were resized (longer side) before training; None: they kept their size.
        lineage: where the model comes from: data digest, code revision, parameters digest, ...
        metrics: of the checkpoint, by name, as known when it was saved.
        dtype: type of the images: uint8, uint16, int16 or float32.
        spatial_dims: of the images: 2, or 3 for volumes.
        neighbours: slices of a volume on each side of an image that are among its channels (2.5-D).
        reference: statistics of images that the model was trained on; None of models of earlier versions.
    """

    model: nn.Module
    name: str
    options: dict[str, Any]
    task: Task
    mean: tuple[float, ...]
    std: tuple[float, ...]
    longer_side: int | None
    lineage: dict[str, Any]
    metrics: dict[str, float]
    dtype: str = "uint8"
    spatial_dims: int = 2
    neighbours: int = 0
    reference: Reference | None = None

    @property
    def labels(self) -> LabelMap:
        """Classes of the results."""
        return self.task.labels

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)


def save_bundle(
    folder: Path,
    model: nn.Module,
    *,
    name: str,
    options: Mapping[str, Any],
    task: Task,
    mean: Sequence[float],
    std: Sequence[float],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    longer_side: int | None = None,
    dtype: str = "uint8",
    spatial_dims: int = 2,
    neighbours: int = 0,
) -> None:
    """Write ``model`` (as ``create_model`` built it of ``name``, ``options`` and the task's arguments) and its
    description; the fields are those of ``Bundle``.

    Auxiliary heads are left out, because only training uses them; the bundle's option ``auxiliary`` is false where a
    model has it.

    Raises:
        InputError: weights that are not finite.
    """
    if not all_finite(model.state_dict()):
        raise InputError(f"the weights of model {name!r} are not finite (NaN or infinity): train again with a lower lr")
    folder.mkdir(parents=True, exist_ok=True)
    if "auxiliary" in model_options(name):
        options = {**options, "auxiliary": False}
        model = _without_auxiliary(model, name, options, task, len(mean))
    save_model(model, str(folder / WEIGHTS))
    description = {
        "name": name,
        "options": {
            key: without_credentials(value) if isinstance(value, str) else value for key, value in options.items()
        },
        "task": {"name": task.name, "settings": settings_to_dict(task.settings)},
        "labels": task.labels.to_dict(),
        "channels": len(mean),
        "dtype": dtype,
        "spatial_dims": spatial_dims,
        "neighbours": neighbours,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "longer_side": longer_side,
        "lineage": dict(lineage),
        "metrics": {key: float(value) for key, value in (metrics or {}).items() if math.isfinite(value)},
    }
    write_description(folder, description)


def copy_bundle(source: Path, target: Path, settings: Any) -> None:
    """Copy a bundle into a new folder; the copy predicts with ``settings`` (of its task).

    Raises:
        InputError: as ``load_bundle``.
    """
    description = read_description(source)
    name = description["task"].get("name", FIRST)
    target.mkdir(parents=True)
    for file in (WEIGHTS, *([REFERENCE] if description["reference"] else [])):
        shutil.copyfile(source / file, target / file)
    write_description(target, description | {"task": {"name": name, "settings": settings_to_dict(settings)}})


def add_reference(folder: Path, reference: Reference) -> None:
    """Make ``reference`` a part of the bundle in ``folder``.

    Raises:
        InputError: as ``load_bundle``.
    """
    description = read_description(folder)
    write_reference(folder, reference)
    write_description(folder, description | {"reference": file_sha256(folder / REFERENCE).hex()})


def load_bundle(folder: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """The model of a bundle folder, rebuilt without downloading encoder weights (the bundle has them all).

    Raises:
        InputError: a file is missing or broken, or the weights are not finite or not those of the described model;
            names the file.
        DamagedBundleError: a file is not as it was written.
    """
    folder = Path(folder)
    description = read_description(folder)
    task = _task(folder / DESCRIPTION, description)
    model = _described(folder / DESCRIPTION, description, task)
    _load_weights(model, folder / WEIGHTS)
    return Bundle(
        model=model.to(device).eval(),
        name=description["name"],
        options=description["options"],
        task=task,
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        longer_side=description["longer_side"],
        lineage=description["lineage"],
        metrics=description["metrics"],
        dtype=description["dtype"],
        spatial_dims=description["spatial_dims"],
        neighbours=description["neighbours"],
        reference=read_reference(folder) if description["reference"] else None,
    )


def bundle_digest(folder: str | Path) -> str:
    """SHA-256 over the bundle's description, which holds that of its reference, and weights: the same digest, the same
    model.
    """
    digest = hashlib.sha256()
    for name in (DESCRIPTION, WEIGHTS):
        digest.update(file_sha256(Path(folder) / name))
    return digest.hexdigest()


def _task(path: Path, description: Mapping[str, Any]) -> Task:
    """The task; bundles of version 0.1 name none."""
    task = description["task"]
    with reading(path, damaged=AGAIN):
        labels = LabelMap.from_dict(description["labels"])
        return create_task(task.get("name", FIRST), labels, task.get("settings", {}))


def _described(path: Path, description: Mapping[str, Any], task: Task) -> nn.Module:
    name, options, channels = description["name"], description["options"], description["channels"]
    given = task.model_arguments(task.labels) | {"in_channels": channels}
    for option, value in given.items():
        expected = list(value) if isinstance(value, tuple) else value  # as in JSON
        if options.get(option, expected) != expected:
            raise InputError(
                f"{path}: {option} is {options[option]!r}, but classes and channels make it {expected!r}: {AGAIN}"
            )
    with reading(path, damaged=AGAIN):  # options of wrong types and sizes fail anywhere within a model
        return _untrained(name, options, task, channels)


def _untrained(name: str, options: Mapping[str, Any], task: Task, channels: int) -> nn.Module:
    """The model without the weights of its encoder, which would be fetched."""
    known = model_options(name)
    arguments = {**known_arguments(name, task.model_arguments(task.labels)), **options}
    arguments["weights"] = None
    if "encoder_weights" in known:
        arguments["encoder_weights"] = None
    if "in_channels" in known:
        arguments["in_channels"] = channels
    return create_model(name, **arguments)


def _without_auxiliary(model: nn.Module, name: str, options: Mapping[str, Any], task: Task, channels: int) -> nn.Module:
    """The model that ``options`` describe, with the weights of ``model``, which has more."""
    with torch.device("meta"):
        smaller = _untrained(name, options, task, channels)
    weights = model.state_dict()
    smaller.load_state_dict({key: weights[key] for key in smaller.state_dict()}, assign=True)
    return smaller


def _load_weights(model: nn.Module, path: Path) -> None:
    wrong = f"{path} is of another model than {DESCRIPTION} describes"
    with reading(path, missing=f"it belongs beside {DESCRIPTION}, {AGAIN}", damaged=AGAIN):
        try:
            missing, unexpected = load_model(model, path, strict=False)
        except RuntimeError as error:  # load_state_dict: tensors of other shapes
            raise InputError(f"{wrong} ({on_one_line(error)}): use the two files of one training") from None
    if missing or unexpected:
        counts = (
            f"{len(missing)} weights are missing {sorted(missing)[:3]}, {len(unexpected)} are unknown"
            f" {sorted(unexpected)[:3]}"
        )
        raise InputError(f"{wrong} ({counts}): use the two files of one training")
    if not all_finite(model.state_dict()):
        raise InputError(
            f"{path} holds weights that are not finite (NaN or infinity): train again with a lower train.lr, or copy"
            " the model again"
        )

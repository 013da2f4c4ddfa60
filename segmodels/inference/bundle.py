"""A trained model as a folder: ``weights.safetensors`` and ``model.json``, enough to rebuild it and to predict. Nothing
in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from segmodels.errors import InputError
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model, model_options

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Bundle:
    """A model that is ready to predict, with all that it needs to know about its data.

    Attributes:
        model: in eval mode, on the device it was loaded to.
        name, options: of the model in the registry.
        labels: classes of the C output channels.
        mean, std: per channel, of raw values 0..255; images are normalised by (image - mean) / std.
        longer_side: pixels to which images were resized (longer side) before training; None: they kept their size.
        lineage: where the model comes from: data digest, code revision, parameters digest, ...
        metrics: of the checkpoint, by name, as far as they were known when it was saved.
    """

    model: nn.Module
    name: str
    options: dict[str, Any]
    labels: LabelMap
    mean: tuple[float, ...]
    std: tuple[float, ...]
    longer_side: int | None
    lineage: dict[str, Any]
    metrics: dict[str, float]


def save_bundle(
    folder: Path,
    model: nn.Module,
    *,
    name: str,
    options: Mapping[str, Any],
    num_classes: int,
    labels: LabelMap,
    mean: Sequence[float],
    std: Sequence[float],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    longer_side: int | None = None,
) -> None:
    """Write ``model`` (as ``create_model(name, num_classes, **options)`` built it) and its description; the fields are
    those of ``Bundle``.

    Auxiliary heads stay behind: only training has a use for them. The bundle's option ``auxiliary``, of models that
        have it, is false.

    Raises:
        InputError: ``num_classes`` is not the number of classes of ``labels``.
    """
    if num_classes != labels.num_classes:
        raise InputError(
            f"model {name!r} has {num_classes} classes but its label map {labels.num_classes}, expected the same number"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if "auxiliary" in model_options(name):
        options = {**options, "auxiliary": False}
        model = _without_auxiliary(model, name, num_classes, options)
    save_model(model, str(folder / WEIGHTS))
    description = {
        "name": name,
        "options": dict(options),
        "num_classes": num_classes,
        "labels": labels.to_dict(),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "longer_side": longer_side,
        "lineage": dict(lineage),
        "metrics": {key: float(value) for key, value in (metrics or {}).items() if math.isfinite(value)},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_bundle(folder: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """The model of a bundle folder, rebuilt without downloading encoder weights (the bundle has them all).

    Raises:
        InputError: a file is missing or broken, or the weights are not those of the described model; names the file.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    model = _untrained(description["name"], description["num_classes"], description["options"])
    _load_weights(model, folder / WEIGHTS)
    return Bundle(
        model=model.to(device).eval(),
        name=description["name"],
        options=description["options"],
        labels=LabelMap.from_dict(description["labels"]),
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        longer_side=description["longer_side"],
        lineage=description["lineage"],
        metrics=description["metrics"],
    )


def read_labels(folder: str | Path) -> LabelMap:
    """The label map of a bundle folder, without loading its weights; raises InputError as ``load_bundle``."""
    return LabelMap.from_dict(_read_description(Path(folder) / DESCRIPTION)["labels"])


def bundle_digest(folder: str | Path) -> str:
    """SHA-256 over the bundle's two files: the same digest, the same model."""
    digest = hashlib.sha256()
    for name in (DESCRIPTION, WEIGHTS):
        try:
            with (Path(folder) / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError:
            raise InputError(
                f"{Path(folder) / name} is not there, expected the folder of a trained model: run the train step or"
                " check the path"
            ) from None
    return digest.hexdigest()


def _untrained(name: str, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model without the weights of its encoder, which would be fetched."""
    fetched = {"encoder_weights": None} if "encoder_weights" in model_options(name) else {}
    return create_model(name, num_classes, **{**options, **fetched})


def _without_auxiliary(model: nn.Module, name: str, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The model that ``options`` describe, with the weights of ``model``, which has more."""
    with torch.device("meta"):
        smaller = _untrained(name, num_classes, options)
    weights = model.state_dict()
    smaller.load_state_dict({key: weights[key] for key in smaller.state_dict()}, assign=True)
    return smaller


def _read_description(path: Path) -> dict[str, Any]:
    expected = {"name", "options", "num_classes", "labels", "mean", "std", "longer_side", "lineage", "metrics"}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is not there, expected the folder of a trained model: run the train step or check the path"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): train again or copy the model again") from None
    if not isinstance(description, dict) or not expected <= description.keys():
        missing = sorted(expected - set(description if isinstance(description, dict) else ()))
        raise InputError(
            f"{path} lacks {', '.join(missing)}, expected the description of a trained model: train again or copy the"
            " model again"
        )
    return description


def _load_weights(model: nn.Module, path: Path) -> None:
    wrong = f"{path} is of another model than {DESCRIPTION} describes"
    try:
        missing, unexpected = load_model(model, path, strict=False)
    except FileNotFoundError:
        raise InputError(
            f"{path} is not there, expected the model's weights beside {DESCRIPTION}: train again or copy the model"
            " again"
        ) from None
    except SafetensorError as error:
        raise InputError(
            f"{path} is broken ({error}), expected a safetensors file: train again or copy the model again"
        ) from None
    except RuntimeError as error:  # load_state_dict: tensors of other shapes
        raise InputError(f"{wrong} ({' '.join(str(error).split())}): use the two files of one training") from None
    if missing or unexpected:
        counts = (
            f"{len(missing)} weights are missing {sorted(missing)[:3]}, {len(unexpected)} are unknown"
            f" {sorted(unexpected)[:3]}"
        )
        raise InputError(f"{wrong} ({counts}): use the two files of one training")

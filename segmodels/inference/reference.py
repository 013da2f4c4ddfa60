"""Reference statistics of some training images, to compare later images with.

They lie beside the weights as ``reference.safetensors``: the statistics of each image, and the mean and the principal
components of the features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from segmodels.files import REFERENCE, parse_json, reading

MOST_IMAGES = 256
COMPONENTS = 16
MOST_BYTES = 1_000_000
"""Largest size of the file. With very many classes it holds fewer images."""

BRIGHTNESS, CONFIDENCE, EMBEDDING, SHARE = "brightness", "confidence", "embedding/", "share/"
"""Names of statistics, and how those of the components (from 1) and of the classes begin."""

KEY = "reference"  # one key, since safetensors writes several in random order


@dataclass(frozen=True)
class Observation:
    """One image as a model sees it.

    Attributes:
        brightness: mean of its values, in their own units.
        confidence: mean probability of the most probable class, 0..1; None of a model that gives none.
        features: spatial mean of the deepest feature map, ``(C,)``; None where no layer is known.
    """

    brightness: float
    confidence: float | None
    features: NDArray[np.float32] | None


@dataclass(frozen=True)
class Reference:
    """Statistics of images of the training set.

    Attributes:
        names: of the statistics.
        values: of each image, float32 ``(N, len(names))``.
        layer: module of the model whose output is the deepest feature map.
        mean, components: of the features, float32 ``(C,)`` and ``(K, C)``, K at most 16.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    layer: str
    mean: NDArray[np.float32]
    components: NDArray[np.float32]


def reference_of(observations: Sequence[Observation], shares: Sequence[Mapping[str, float]], layer: str) -> Reference:
    """The reference that images make.

    Args:
        observations: of each image.
        shares: of each image, class -> share of the image; empty for models that know no classes.
        layer: as in ``Reference``.
    """
    features = np.array([one.features for one in observations], dtype=np.float64)
    mean = features.mean(axis=0)
    _, _, axes = np.linalg.svd(features - mean, full_matrices=False)
    axes = axes[: min(COMPONENTS, len(features) - 1)]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes *= np.where(largest < 0, -1.0, 1.0)  # an axis has two directions
    basis = mean.astype(np.float32), axes.astype(np.float32)
    rows = [statistics(one, own, *basis) for one, own in zip(observations, shares, strict=True)]
    values = np.array([list(row.values()) for row in rows], dtype=np.float32)
    return _of_size(Reference(tuple(rows[0]), values, layer, *basis))


def statistics(
    observation: Observation,
    shares: Mapping[str, float],
    mean: NDArray[np.float32] | None = None,
    components: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Statistics of an image by name; without ``mean`` and ``components`` those of the features are left out."""
    found = {BRIGHTNESS: observation.brightness}
    if observation.confidence is not None:
        found[CONFIDENCE] = observation.confidence
    if mean is not None and components is not None and observation.features is not None:
        projected = components.astype(np.float64) @ (observation.features.astype(np.float64) - mean)
        found |= {f"{EMBEDDING}{number}": float(value) for number, value in enumerate(projected, start=1)}
    return found | {f"{SHARE}{name}": float(share) for name, share in shares.items()}


def as_logged(value: float) -> float:
    """A statistic as a log has it, with six digits. The reference is compared at the same precision: a sure model's
    confidences between 0.9999995 and 1 are all 1 in the log.
    """
    return float(f"{value:.6g}")


def write_reference(folder: Path, reference: Reference) -> None:
    """Write it into the folder of a model; ``bundle.add_reference`` makes it a part of the model."""
    facts = json.dumps({"names": reference.names, "layer": reference.layer})
    arrays = {name: np.ascontiguousarray(getattr(reference, name)) for name in ("values", "mean", "components")}
    save_file(arrays, folder / REFERENCE, metadata={KEY: facts})


def read_reference(folder: Path) -> Reference | None:
    """The reference of the model in a folder; None where it has none.

    Raises:
        DamagedFileError: it is not what ``write_reference`` writes.
    """
    path = folder / REFERENCE
    if not path.exists():
        return None
    with reading(path, "train"), safe_open(path, framework="numpy") as file:
        facts = parse_json((file.metadata() or {})[KEY], {"names": [str], "layer": str})
        values, mean, components = (file.get_tensor(name) for name in ("values", "mean", "components"))
        if values.shape[1:] != (len(facts["names"]),) or components.shape[1:] != mean.shape:
            raise ValueError(f"arrays of the shapes {values.shape}, {mean.shape} and {components.shape}")
        return Reference(tuple(facts["names"]), values, facts["layer"], mean, components)


def _of_size(reference: Reference) -> Reference:
    """With as many images, evenly spaced, as fit into the file."""
    kept = 4 * (reference.mean.size + reference.components.size) + 2 * len(json.dumps(reference.names)) + 4096
    most = max((MOST_BYTES - kept) // (4 * len(reference.names)), 1)
    count = len(reference.values)
    if count <= most:
        return reference
    chosen = np.linspace(0, count - 1, most).round().astype(int)
    return Reference(reference.names, reference.values[chosen], reference.layer, reference.mean, reference.components)

"""``model.json``: what a bundle says about its model, with a digest over it and the weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segmodels.errors import InputError
from segmodels.files import DESCRIPTION, REFERENCE, WEIGHTS, read_json

DTYPES = ("uint8", "uint16", "int16", "float32")
LONGEST = 2**16  # pixels
AGAIN = "train again or copy the model again"


class DamagedBundleError(InputError):
    """Files of a bundle that are not those that were written or registered."""


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``model.json`` beside the weights, which are there already.

    Args:
        description: its fields, without ``digest``; a field ``reference`` of None is left out.
    """
    known = {name: value for name, value in description.items() if name != "reference" or value is not None}
    description = json.loads(json.dumps(known, allow_nan=False))  # as it will be read
    text = json.dumps({**description, "digest": _digest(folder, description)}, indent=2, allow_nan=False) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """The fields of ``model.json`` without ``digest``, in the types and ranges that ``write_description`` gives them.

    Fields that bundles of version 0.1 lack are filled in; those bundles have no digest.

    Raises:
        InputError: a file is missing, or ``model.json`` is not that of a bundle.
        DamagedBundleError: the files are not those that ``digest`` and ``reference`` were made of.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise InputError(
            f"{path} is not there, expected the folder of a trained model: run the train step or check the path"
        )
    described = read_json(path, "train")
    if not isinstance(described, dict):
        raise InputError(f"{path} holds {str(described)[:100]}, expected the description of a trained model: {AGAIN}")
    if missing := sorted(_FIELDS.keys() - _EARLIER.keys() - described.keys()):
        raise InputError(f"{path} lacks {', '.join(missing)}, expected the description of a trained model: {AGAIN}")
    digest = described.pop("digest", None)
    if unknown := sorted(described.keys() - _FIELDS.keys() - {"num_classes"}):  # num_classes: of version 0.1
        raise InputError(
            f"{path} has unknown fields {', '.join(map(repr, unknown))}: {AGAIN}, or use the version of segmodels that"
            " wrote it"
        )
    for name, (right, expected) in _FIELDS.items():
        if name in described and not right(described[name]):
            raise InputError(f"{path}: {name} is {str(described[name])[:100]}, expected {expected}: {AGAIN}")
    channels = {len(described["mean"]), len(described["std"]), described.get("channels", len(described["mean"]))}
    if len(channels) > 1:
        raise InputError(
            f"{path} has {len(described['mean'])} values of mean, {len(described['std'])} of std and"
            f" {described.get('channels')} channels, expected as many of each: {AGAIN}"
        )
    if digest is not None and digest != (found := _digest(folder, described)):
        raise DamagedBundleError(
            f"{path} and {WEIGHTS} are not as they were written: their digest is {found[:12]}, {DESCRIPTION} says"
            f" {str(digest)[:12]}: {AGAIN}"
        )
    described = _EARLIER | {"channels": len(described["mean"])} | described
    wanted = described["reference"]
    if wanted is not None and wanted != (found := file_sha256(folder / REFERENCE).hex()):
        raise DamagedBundleError(
            f"{folder / REFERENCE} is not as it was written: its digest is {found[:12]}, {DESCRIPTION} says"
            f" {wanted[:12]}: {AGAIN}"
        )
    return {name: described[name] for name in _FIELDS}


def _digest(folder: Path, description: Mapping[str, Any]) -> str:
    """SHA-256 of the description, however it is laid out, and of the weights' SHA-256."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, allow_nan=False).encode())
    digest.update(file_sha256(folder / WEIGHTS))
    return digest.hexdigest()


def file_sha256(path: Path) -> bytes:
    """Raises InputError where the file is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        raise InputError(
            f"{path} is not there, expected the folder of a trained model with all its files: run the train step, copy"
            " the model again or check the path"
        ) from None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(map(_is_number, values))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_EARLIER: dict[str, Any] = {
    "task": {},
    "channels": 0,
    "dtype": "uint8",
    "spatial_dims": 2,
    "neighbours": 0,
    "reference": None,
}
"""Fields that earlier versions did not write, and what they are where they are missing."""

_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "the name of a model"),
    "options": (_is_object, "an object"),
    "task": (_is_object, "an object with name and settings"),
    "labels": (_is_object, "an object with classes, palette, ids and ignore_index"),
    "channels": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "spatial_dims": (lambda value: value in (2, 3), "2 or 3"),
    "neighbours": (lambda value: type(value) is int and value >= 0, "a whole number from 0"),
    "mean": (_are_numbers, "finite numbers, one per channel"),
    "std": (lambda values: _are_numbers(values) and min(values) > 0, "finite numbers above 0, one per channel"),
    "longer_side": (
        lambda value: value is None or (type(value) is int and 0 < value <= LONGEST),
        f"null, or pixels from 1 to {LONGEST}",
    ),
    "lineage": (_is_object, "an object"),
    "reference": (lambda value: value is None or isinstance(value, str), "null, or the SHA-256 of a file"),
    "metrics": (
        lambda value: _is_object(value) and all(map(_is_number, value.values())),
        "an object of finite numbers",
    ),
}

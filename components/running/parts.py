"""How several pods share a dataset, and how a later step checks that it has the results of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.artifacts import JsonFile
from segmodels.errors import InputError


def share(count: int, part: int, parts: int) -> range:
    """Positions from 0 to ``count - 1`` that belong to one part. Parts are consecutive ranges; their lengths differ by
    at most one.

    Raises:
        InputError: ``part`` is not one of ``parts``.
    """
    if not 0 <= part < parts:
        raise InputError(f"--part is {part} with --parts {parts}, expected a part from 0 to {parts - 1}")
    return range(count * part // parts, count * (part + 1) // parts)


def in_order(folders: Sequence[Path], place: JsonFile) -> list[Path]:
    """The folders of all parts of one dataset, in their order.

    Args:
        place: the file that says which part a folder is.

    Raises:
        InputError: a part is missing, there twice, or of another dataset.
    """
    if not folders:
        raise InputError("no parts are given, expected the folders of all parts of the dataset: name them")
    places = {folder: place.read(folder) for folder in folders}
    ordered = sorted(folders, key=lambda folder: places[folder]["part"])
    parts, digest = (places[ordered[0]][key] for key in ("parts", "digest"))
    found = [(places[folder]["part"], places[folder]["parts"], places[folder]["digest"]) for folder in ordered]
    if found != [(part, parts, digest) for part in range(parts)]:
        shown = ", ".join(f"{number} of {of} of dataset {of_dataset}" for number, of, of_dataset in found)
        raise InputError(
            f"the parts given are {shown}, expected each part of one dataset once: run the step for the others"
        )
    return ordered

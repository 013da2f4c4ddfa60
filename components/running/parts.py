"""Parts of a dataset that several pods work on side by side, and how a later step finds them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.artifacts import JsonFile
from segmodels.errors import InputError


def share(count: int, part: int, parts: int) -> range:
    """The positions, of ``count``, that belong to one part: every position to one, in order, their numbers alike.

    Raises:
        InputError: there is no such part.
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
        raise InputError("no folders of parts are given, expected those of all parts: name them")
    places = {folder: place.read(folder) for folder in folders}
    ordered = sorted(folders, key=lambda folder: places[folder]["part"])
    parts, digest = (places[ordered[0]][key] for key in ("parts", "digest"))
    found = [(places[folder]["part"], places[folder]["parts"], places[folder]["digest"]) for folder in ordered]
    if found != [(part, parts, digest) for part in range(parts)]:
        shown = ", ".join(f"{number} of {of} of dataset {of_dataset}" for number, of, of_dataset in found)
        raise InputError(f"the parts given are {shown}, expected each part of one dataset once: write the others too")
    return ordered

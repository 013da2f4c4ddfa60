"""Shards that several writers wrote side by side, put together: the same bytes as those of one writer."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segmodels.data.shard_writer import Borders, shard_name, write_statistics
from segmodels.data.statistics import DatasetStatistics, StatisticsBuilder
from segmodels.errors import InputError
from segmodels.files import SHARD_PART, read_json, reading

COUNTS = {"low": int, "histogram": ([[int]], None), "moments": [object], "class_pixels": [int], "images": {str: int}}
FILE = {"file": str, "bytes": int}
PART = {"digest": str, "image": (object, None), "labels": object, "shards": {str: [FILE]}, "counts": COUNTS}
"""Shape of part.json."""

STEP = "preprocess-part"
"""That writes a part."""

SAME = ("schema", "labels", "digest", "longer_side", "source")
"""Facts that all parts of a dataset share."""


class Size(NamedTuple):
    """What a sample takes in a shard: its split, and the spatial sizes of its image and of its annotation."""

    split: str
    image: Sequence[int]
    annotation: Sequence[int]


def files_of(sizes: Iterable[Size], borders: Mapping[str, Borders]) -> list[tuple[str, int]]:
    """Split and number of the file that each sample goes to, in the order of the samples.

    Args:
        borders: split -> its borders, unused so far.
    """
    return [(size.split, borders[size.split].file_of(size.image, size.annotation)) for size in sizes]


def merge_parts(parts: Sequence[Path], folder: Path) -> DatasetStatistics:
    """Put the shards of all parts and their statistics into ``folder``, which exists and is empty.

    Files are linked where the file system allows it, else copied; those in an object store stay there.

    Args:
        parts: folders of writers with ``first``, in the order of the manifest.

    Raises:
        InputError: a part is damaged or of another dataset, or a shard is missing.
    """
    contents = [read_json(part / SHARD_PART, STEP, PART) for part in parts]
    common = {key: contents[0].get(key) for key in SAME}
    images = [content["image"] for content in contents if content["image"] is not None]
    with reading(parts[0] / SHARD_PART, STEP):
        builder = StatisticsBuilder(len(common["labels"]["classes"]))
    shards: dict[str, list[dict[str, Any]]] = {}
    for part, content in zip(parts, contents, strict=True):
        if any(content.get(key) != common[key] for key in SAME) or content["image"] not in (None, *images[:1]):
            raise InputError(
                f"{part} holds shards of another dataset, or of other parameters, than {parts[0]}: write all parts with"
                " the same ones"
            )
        with reading(part / SHARD_PART, STEP):
            builder.merge(content["counts"])
        for split, files in content["shards"].items():
            for facts in files:
                _take(part, split, facts, shards.setdefault(split, []), folder)
    if not images:
        raise InputError(f"the parts {', '.join(map(str, parts))} hold no samples, expected at least one: add them")
    statistics = builder.build()
    facts = {"schema": common["schema"], "image": images[0], **{key: common[key] for key in SAME[1:]}}
    write_statistics(folder, statistics, facts | {"shards": shards})
    return statistics


def _take(part: Path, split: str, facts: dict[str, Any], taken: list[dict[str, Any]], folder: Path) -> None:
    """Put a shard of a part into ``folder``, behind those ``taken`` before."""
    name, path = shard_name(split, len(taken)), part / facts["file"]
    if facts["file"] != name:
        raise InputError(
            f"the shard {name} is in none of the parts, the next one is {path}: give all parts, each once, in their"
            " order"
        )
    taken.append(facts)
    if "url" in facts:  # it lies in an object store
        return
    with reading(path, STEP):
        if path.stat().st_size != facts["bytes"]:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, expected {facts['bytes']:,}")
    try:
        (folder / name).hardlink_to(path)
    except OSError:  # another file system
        shutil.copyfile(path, folder / name)

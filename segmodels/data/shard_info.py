"""``statistics.json`` of a shard folder: facts that are known without opening a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.checks import shown
from segmodels.data.image_form import DTYPES, ImageForm
from segmodels.data.object_store import is_url, read_stored
from segmodels.data.records import SCHEMA
from segmodels.data.statistics import DatasetStatistics
from segmodels.errors import InputError
from segmodels.files import STATISTICS, check_shape, parse_json, reading
from segmodels.labels import LabelMap


@dataclass(frozen=True)
class ShardInfo:
    """What ``statistics.json`` says.

    Attributes:
        labels: the label map whose train ids the annotations hold.
        form: type, channels and spatial axes of every image.
        statistics: counts over all splits.
        digest: of the dataset that the shards were made from.
        longer_side: pixels that the longer side of every image was resized to; None: they kept their size.
        source: where the dataset came from, as ingest recorded it; empty when not known.
        shards: split -> its files in order: ``{"file": name, "samples": n, "annotated": n, "objects": n, "bytes":
            size, "sizes": [[n, size], ...], "groups": [[n, name], ...], "url": folder}``. ``sizes`` are those of the
            images, as runs of equal ones, and missing in shards of earlier versions; ``groups`` are there if samples
            share groups, ``url`` if the file lies in an object store.
        url: of the folder, if it lies in an object store itself; else empty.
        version: digest of statistics.json.
    """

    labels: LabelMap
    form: ImageForm
    statistics: DatasetStatistics
    digest: str
    longer_side: int | None
    source: Mapping[str, Any]
    shards: Mapping[str, list[dict[str, Any]]]
    url: str
    version: str


SHAPE = {
    "labels": object,
    "image": {"dtype": str, "channels": int, "spatial_dims": int},
    "mean": [float],
    "std": [float],
    "class_pixels": [int],
    "present_pixels": [int],
    "images": {str: int},
    "pixels": {str: int},
    "digest": str,
    "longer_side": (int, None),
    "source": {str: object},
    "shards": {str: [{"file": str, "samples": int, "annotated": int, "objects": int, "bytes": int}]},
}
"""Of statistics.json."""


def read_info(folder: str | Path) -> ShardInfo:
    """Read ``statistics.json`` of a shard folder, which may be the URL of one in an object store.

    Raises:
        InputError: missing, broken, or of another schema.
        TransientError: the store does not answer.
    """
    stored = is_url(folder)
    path = f"{folder}/{STATISTICS}" if stored else Path(folder) / STATISTICS
    with reading(path, "preprocess"):
        content = read_stored(str(path)) if stored else Path(path).read_bytes()
        data = parse_json(content, {})
    if (schema := data.get("schema", 1)) != SCHEMA:
        raise InputError(
            f"shards in {folder} have schema {shown(schema)}, expected {SCHEMA}: rerun the step preprocess, which"
            " writes them anew"
        )
    with reading(path, "preprocess"):
        check_shape(data, SHAPE)
        labels, statistics = LabelMap.from_dict(data["labels"]), DatasetStatistics.from_dict(data)
        image = data["image"]
        known = image["channels"], image["spatial_dims"], image.get("neighbours", 0)
        form = ImageForm(np.dtype(image["dtype"]), *known)
        _check_sense(data, labels, form)
        return ShardInfo(
            labels,
            form,
            statistics,
            data["digest"],
            data["longer_side"],
            data["source"],
            data["shards"],
            url=str(folder).rstrip("/") if stored else "",
            version=hashlib.sha256(content).hexdigest(),
        )


def _check_sense(data: Mapping[str, Any], labels: LabelMap, form: ImageForm) -> None:
    """Raise ValueError where the values of ``statistics.json`` do not belong together."""
    if form.dtype.name not in DTYPES or form.channels < 1 or form.spatial_dims not in (2, 3):
        raise ValueError(f"image is {shown(data['image'])}, expected {', '.join(DTYPES)}, channels, 2 or 3 dimensions")
    if type(form.neighbours) is not int or form.neighbours < 0 or form.channels % (2 * form.neighbours + 1):
        raise ValueError(f"image is {shown(data['image'])}, expected as many channels of each slice")
    lengths = {"mean": form.channels, "std": form.channels} | dict.fromkeys(
        ("class_pixels", "present_pixels"), labels.num_classes
    )
    for name, length in lengths.items():
        if len(data[name]) != length and (data[name] or "train" in data["shards"]):
            raise ValueError(f"{name} has {len(data[name])} entries, expected {length}")
    if data["longer_side"] is not None and data["longer_side"] < 1:
        raise ValueError(f"longer_side is {data['longer_side']}, expected at least 1")
    for split, files in data["shards"].items():
        if not files or any(one["samples"] < 1 or Path(one["file"]).name != one["file"] for one in files):
            raise ValueError(f"shards.{split} is {shown(files)}, expected files of at least one sample each")
        for one in files:
            check_shape(one.get("url", ""), str, "url")
            _check_sizes(one, form)
            check_shape(one.get("groups", []), [list], "groups")
            if "groups" in one and one["samples"] != sum(int(count) for count, _ in one["groups"]):
                raise ValueError(f"groups is {shown(one['groups'])}, expected those of {one['samples']} samples")


def _check_sizes(shard: Mapping[str, Any], form: ImageForm) -> None:
    """``sizes`` is there since the first shards were read from object stores."""
    if (runs := shard.get("sizes")) is None:
        return
    check_shape(runs, [list], "sizes")
    if not all(
        len(run) == 2
        and isinstance(run[0], int)
        and isinstance(run[1], list)
        and len(run[1]) == form.spatial_dims
        and all(isinstance(side, int) for side in run[1])
        for run in runs
    ) or shard["samples"] != sum(count for count, _ in runs):
        raise ValueError(f"sizes is {shown(runs)}, expected those of {shard['samples']} samples")

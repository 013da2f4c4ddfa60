"""Datasets as Arrow IPC shards of raw pixels: memory-mapped, random access, no decoding.

A shard folder holds ``{split}-{00000}.arrow`` files, one record batch per sample (``records.py`` has its columns), and
``statistics.json``. ``shard_writer.py`` writes them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from segmodels.annotations import Annotation
from segmodels.checks import shown
from segmodels.data.image_form import DTYPES, ImageForm
from segmodels.data.records import SCHEMA, Record, record_schema
from segmodels.data.statistics import DatasetStatistics
from segmodels.errors import InputError
from segmodels.files import STATISTICS, check_shape, parse_json, reading
from segmodels.labels import LabelMap

T = TypeVar("T")


@dataclass(frozen=True)
class ShardInfo:
    """``statistics.json``: facts about the shards that are known without opening them.

    Attributes:
        labels: the label map whose train ids the annotations hold.
        form: type, channels and spatial axes of every image.
        statistics: counts over all splits.
        digest: of the dataset that the shards were made from.
        longer_side: pixels that the longer side of every image was resized to; None: they kept their size.
        source: where the dataset came from, as ingest recorded it; empty when not known.
        shards: split -> its files in order: ``{"file": name, "samples": n, "annotated": n, "objects": n, "bytes":
            size}``.
    """

    labels: LabelMap
    form: ImageForm
    statistics: DatasetStatistics
    digest: str
    longer_side: int | None
    source: Mapping[str, Any]
    shards: Mapping[str, list[dict[str, Any]]]


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
    """Read ``statistics.json`` of a shard folder.

    Raises:
        InputError: missing, broken, or of another schema.
    """
    path = Path(folder) / STATISTICS
    with reading(path, "preprocess"):
        data = parse_json(path.read_bytes(), {})
    if (schema := data.get("schema", 1)) != SCHEMA:
        raise InputError(
            f"shards in {folder} have schema {shown(schema)}, expected {SCHEMA}: rerun the step preprocess, which"
            " writes them anew"
        )
    with reading(path, "preprocess"):
        check_shape(data, SHAPE)
        labels, statistics = LabelMap.from_dict(data["labels"]), DatasetStatistics.from_dict(data)
        image = data["image"]
        form = ImageForm(np.dtype(image["dtype"]), image["channels"], image["spatial_dims"])
        _check_sense(data, labels, form)
        return ShardInfo(labels, form, statistics, data["digest"], data["longer_side"], data["source"], data["shards"])


def _check_sense(data: Mapping[str, Any], labels: LabelMap, form: ImageForm) -> None:
    """Raise ValueError where the values of ``statistics.json`` do not belong together."""
    if form.dtype.name not in DTYPES or form.channels < 1 or form.spatial_dims not in (2, 3):
        raise ValueError(f"image is {shown(data['image'])}, expected {', '.join(DTYPES)}, channels, 2 or 3 dimensions")
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


class ShardReader:
    """The samples of one split, memory-mapped.

    Pickles as its folder and split: a worker process opens its own map. Pages are read when touched, so a crop of a
    large image costs the crop; but the first time that a sample is read, its checksum is compared.

    Attributes:
        labels, statistics, digest, longer_side, source: as in ``ShardInfo``.
        dtype, channels, spatial_dims: of every image: ``(*spatial, channels)``.
        annotated: whether any sample of the split is annotated.
        has_objects: whether any sample of the dataset has objects.

    Raises:
        InputError: no such split, or a shard that is missing or damaged; names it.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        self.split = split
        info = read_info(folder)
        if split not in info.shards:
            raise InputError(
                f"shard folder {folder} has no split {split!r}, only {', '.join(info.shards)}: add samples of that"
                " split and rerun preprocess"
            )
        self.labels: LabelMap = info.labels
        self.statistics: DatasetStatistics = info.statistics
        self.digest: str = info.digest
        self.longer_side: int | None = info.longer_side
        self.source: Mapping[str, Any] = info.source
        self.dtype, self.channels = info.form.dtype, info.form.channels
        self.spatial_dims: int = info.form.spatial_dims
        self.annotated = any(shard["annotated"] for shard in info.shards[split])
        self.has_objects = any(shard["objects"] for shards in info.shards.values() for shard in shards)
        self._form = info.form
        self._shards = info.shards[split]
        self._ends = np.cumsum([shard["samples"] for shard in self._shards])
        for shard in self._shards:
            self._check_size(shard)
        self._open: dict[int, tuple[pa.ipc.RecordBatchFileReader, mmap.mmap]] = {}
        self._intact: set[int] = set()
        self._last: tuple[int, Record] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def id(self, index: int) -> str:
        """Id of the sample, as in the manifest."""
        return self._read(index, lambda record: record.value("id"))

    def image(self, index: int) -> np.ndarray:
        """Read-only view ``(*spatial, C)`` into the memory map."""
        return self._checked(index, lambda record: record.image)

    def annotation(self, index: int, *, objects: bool = True) -> Annotation:
        """Of the sample, in train ids; all ignored where it is not annotated. Class maps are read-only views.

        Args:
            objects: False leaves layers and segments out, which then need not be unpacked.
        """
        return self._checked(index, lambda record: record.annotation(objects))

    @cached_property
    def sizes(self) -> np.ndarray:
        """Height and width, or depth, height and width, of every image, int ``(N, 2)`` or ``(N, 3)``."""
        return np.array([self._read(index, lambda record: record.size) for index in range(len(self))])

    @cached_property
    def image_labels(self) -> np.ndarray:
        """Class of every whole image, int64 ``(N,)``; -1 where the dataset has none."""
        labels = (self._read(index, lambda record: record.value("image_label")) for index in range(len(self)))
        return np.array([-1 if label is None else label for label in labels], dtype=np.int64)

    def release(self) -> None:
        """Drop the memory maps, and with them the pages read so far; they are mapped again when next read. Views handed
        out stay valid.
        """
        self._open.clear()
        self._last = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardReader, (self.folder, self.split)

    def _read(self, index: int, part: Callable[[Record], T], check: bool = False) -> T:
        """A part of a sample's record."""
        shard, place = self._locate(index)
        last = self._last  # another thread may read or release at any time
        with reading(self._path(shard), "preprocess"):
            if last is not None and last[0] == index and (not check or index in self._intact):
                return part(last[1])
            reader, file = self._map(shard)
            record = Record(reader.get_batch(place), self.labels, self._form)
            self._last = index, record
            if check and index not in self._intact:
                record.check(file)
                self._intact.add(index)
            return part(record)

    def _checked(self, index: int, part: Callable[[Record], T]) -> T:
        """A part of a record whose checksum has been compared."""
        return self._read(index, part, check=True)

    def _locate(self, index: int) -> tuple[int, int]:
        """Shard and place in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of split {self.split!r}, which has {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def _map(self, shard: int) -> tuple[pa.ipc.RecordBatchFileReader, mmap.mmap]:
        opened = self._open.get(shard)  # another thread may release the maps at any time
        if opened is None:
            with self._path(shard).open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages)))
            if (
                reader.schema != record_schema(self.labels)
                or reader.num_record_batches != self._shards[shard]["samples"]
            ):
                raise ValueError(f"{reader.num_record_batches} samples of schema {reader.schema.names}")
            opened = self._open[shard] = reader, pages
        return opened

    def _check_size(self, shard: Mapping[str, Any]) -> None:
        path = self.folder / shard["file"]
        with reading(path, "preprocess"):
            if (size := path.stat().st_size) != shard["bytes"]:
                raise ValueError(f"{size} bytes, expected {shard['bytes']}")

    def _path(self, shard: int) -> Path:
        return self.folder / self._shards[shard]["file"]

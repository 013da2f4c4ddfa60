"""Datasets as Arrow IPC shards of raw pixels: memory-mapped, random access, no decoding.

A shard folder holds ``{split}-{00000}.arrow`` files, one record batch per sample, and ``statistics.json``. The same
samples written in the same order give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from segmodels.annotations import Annotation
from segmodels.data.statistics import DatasetStatistics, SampleCounts, StatisticsBuilder
from segmodels.errors import InputError
from segmodels.labels import LabelMap

SHARD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.large_binary()),  # uint8 (height, width, 3) RGB
        ("mask_height", pa.int32()),
        ("mask_width", pa.int32()),
        ("mask", pa.large_binary()),  # labels.dtype (mask_height, mask_width), train ids
        ("image_label", pa.int32()),  # class of the whole image, null where the dataset has none
    ]
)

_INFO = "statistics.json"


@dataclass(frozen=True)
class ShardInfo:
    """``statistics.json``: what is known of the shards without opening them.

    Attributes:
        labels: the label map whose train ids the masks hold.
        statistics: counts over all splits.
        digest: of the dataset that the shards were made from.
        longer_side: pixels that the longer side of every image was resized to; None: they kept their size.
        source: where the dataset came from, as ingest recorded it; empty when not known.
        shards: split -> its files in order: ``{"file": name, "samples": n, "bytes": size}``.
    """

    labels: LabelMap
    statistics: DatasetStatistics
    digest: str
    longer_side: int | None
    source: Mapping[str, Any]
    shards: Mapping[str, list[dict[str, Any]]]


def read_info(folder: str | Path) -> ShardInfo:
    """Read ``statistics.json`` of a shard folder.

    Raises:
        InputError: missing or broken.
    """
    path = Path(folder) / _INFO
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        labels, statistics = LabelMap.from_dict(data["labels"]), DatasetStatistics.from_dict(data)
        return ShardInfo(labels, statistics, data["digest"], data["longer_side"], data["source"], data["shards"])
    except FileNotFoundError:
        raise InputError(f"shard folder {folder} has no {_INFO}: run the step preprocess first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): rerun the step preprocess") from None


class ShardWriter:
    """Writes samples to shards, split after split; a context manager that completes the folder on a clean exit.

    Args:
        folder: must exist; holds nothing whole until the writer has closed.
        labels: the label map of the masks.
        digest: of the dataset.
        shard_bytes: a shard is closed when its raw pixels reach this size.
        longer_side: pixels that the longer side of every image was resized to; None: they kept their size.
        source: where the dataset came from.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: LabelMap,
        digest: str,
        shard_bytes: int = 256_000_000,
        longer_side: int | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.labels = labels
        self.digest = digest
        self.shard_bytes = shard_bytes
        self.longer_side = longer_side
        self.source = dict(source or {})
        self._statistics = StatisticsBuilder(labels.num_classes)
        self._shards: dict[str, list[dict[str, Any]]] = {}
        self._split: str | None = None
        self._file: Any = None
        self._arrow: Any = None
        self._filled = 0

    def add(
        self,
        split: str,
        sample_id: str,
        image: np.ndarray,
        mask: np.ndarray,
        counts: SampleCounts | None = None,
        image_label: int | None = None,
    ) -> None:
        """Append a sample: image ``(H, W, 3)`` uint8 RGB and mask ``(h, w)`` in train ids; ``counts`` where they are
        known already.
        """
        if split != self._split or self._filled >= self.shard_bytes:
            self._finish_shard()
            self._start_shard(split)
        self._arrow.write_batch(
            _encode(
                sample_id, np.ascontiguousarray(image), np.ascontiguousarray(mask, dtype=self.labels.dtype), image_label
            )
        )
        self._filled += image.nbytes + mask.nbytes
        self._shards[split][-1]["samples"] += 1
        self._statistics.add(split, counts or SampleCounts.of(image, mask, self.labels.num_classes))

    @property
    def statistics(self) -> DatasetStatistics:
        """Of the samples so far."""
        return self._statistics.build()

    def close(self) -> None:
        """Complete the last shard and write ``statistics.json``."""
        self._finish_shard()
        facts = self.statistics.to_dict() | {
            "labels": self.labels.to_dict(),
            "digest": self.digest,
            "longer_side": self.longer_side,
            "source": self.source,
            "shards": self._shards,
        }
        (self.folder / _INFO).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._file is not None:
            with contextlib.suppress(OSError):  # a full disk fails again when the rest is flushed
                self._file.close()

    def _start_shard(self, split: str) -> None:
        shards = self._shards.setdefault(split, [])
        name = f"{split}-{len(shards):05d}.arrow"
        self._file = (self.folder / name).open("wb")
        self._arrow = pa.ipc.new_file(self._file, SHARD_SCHEMA)
        self._split, self._filled = split, 0
        shards.append({"file": name, "samples": 0, "bytes": 0})

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        self._arrow.close()
        self._shards[str(self._split)][-1]["bytes"] = self._file.tell()
        self._file.close()
        self._file = None


class ShardReader:
    """The samples of one split, memory-mapped.

    Pickles as its folder and split: a worker process opens its own map. Pages are read when touched, so a crop of a
        large image costs
    the crop.

    Raises:
        InputError: no such split, or a shard that is missing, truncated or corrupt; names it.
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
        self._shards = info.shards[split]
        self._ends = np.cumsum([shard["samples"] for shard in self._shards])
        for shard in self._shards:
            self._check_size(shard)
        self._open: dict[int, pa.ipc.RecordBatchFileReader] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def id(self, index: int) -> str:
        """Id of the sample, as in the manifest."""
        return self._record(index).column(0)[0].as_py()

    def image(self, index: int) -> np.ndarray:
        """Read-only view uint8 ``(H, W, 3)`` RGB into the memory map."""
        record = self._record(index)
        height, width = record.column(1)[0].as_py(), record.column(2)[0].as_py()
        return self._view(index, record.column(3), (height, width, 3), np.dtype(np.uint8))

    def mask(self, index: int) -> np.ndarray:
        """Read-only view ``(h, w)`` of train ids into the memory map: uint8, or int16 above 255 classes."""
        record = self._record(index)
        height, width = record.column(4)[0].as_py(), record.column(5)[0].as_py()
        return self._view(index, record.column(6), (height, width), self.labels.dtype)

    def annotation(self, index: int) -> Annotation:
        """Labels of the sample: views into the memory map."""
        return Annotation.of_classes(self.mask(index), self._record(index).column(7)[0].as_py())

    @property
    def channels(self) -> int:
        """Of every image."""
        return 3

    @property
    def dtype(self) -> np.dtype:
        """Of every image."""
        return np.dtype(np.uint8)

    @property
    def spatial_dims(self) -> int:
        """2 for images, 3 for volumes."""
        return 2

    @cached_property
    def sizes(self) -> np.ndarray:
        """Height and width of every image, int ``(N, 2)``."""
        records = (self._record(index) for index in range(len(self)))
        return np.array([(record.column(1)[0].as_py(), record.column(2)[0].as_py()) for record in records])

    @cached_property
    def image_labels(self) -> np.ndarray:
        """Class of every whole image, int64 ``(N,)``; -1 where the dataset has none."""
        labels = (self._record(index).column(7)[0].as_py() for index in range(len(self)))
        return np.array([-1 if label is None else label for label in labels], dtype=np.int64)

    def release(self) -> None:
        """Drop the memory maps, and with them the pages read so far; they are mapped again when next read. Views handed
        out stay valid.
        """
        self._open.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardReader, (self.folder, self.split)

    def _locate(self, index: int) -> tuple[int, int]:
        """Shard and place in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of split {self.split!r}, which has {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def _record(self, index: int) -> pa.RecordBatch:
        shard, place = self._locate(index)
        try:
            return self._map(shard).get_batch(place)
        except (OSError, pa.ArrowException) as error:
            raise self._corrupt(shard, error) from None

    def _map(self, shard: int) -> pa.ipc.RecordBatchFileReader:
        reader = self._open.get(shard)  # another thread may release the maps at any time
        if reader is None:
            reader = pa.ipc.open_file(pa.memory_map(str(self.folder / self._shards[shard]["file"])))
            if reader.schema != SHARD_SCHEMA or reader.num_record_batches != self._shards[shard]["samples"]:
                raise self._corrupt(shard, f"{reader.num_record_batches} samples of schema {reader.schema.names}")
            self._open[shard] = reader
        return reader

    def _view(self, index: int, column: pa.LargeBinaryArray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        view = np.frombuffer(
            column.buffers()[2], dtype=dtype
        )  # the buffer of values; a scalar's as_buffer() would copy
        if view.size != np.prod(shape):
            raise self._corrupt(self._locate(index)[0], f"{view.size} values for the shape {shape}")
        return view.reshape(shape)

    def _check_size(self, shard: Mapping[str, Any]) -> None:
        path = self.folder / shard["file"]
        if not path.is_file():
            raise InputError(f"shard {path} is not there: rerun the step preprocess")
        if path.stat().st_size != shard["bytes"]:
            raise InputError(
                f"shard {path} is truncated or corrupt ({path.stat().st_size} bytes, expected {shard['bytes']}): rerun"
                " the step preprocess"
            )

    def _corrupt(self, shard: int, reason: object) -> InputError:
        return InputError(
            f"shard {self.folder / self._shards[shard]['file']} is corrupt ({reason}): rerun the step preprocess"
        )


def _encode(sample_id: str, image: np.ndarray, mask: np.ndarray, image_label: int | None) -> pa.RecordBatch:
    """One sample as a record batch of one row."""
    height, width, mask_height, mask_width = (
        pa.array([value], pa.int32()) for value in (*image.shape[:2], *mask.shape)
    )
    label = pa.array([image_label], pa.int32())
    return pa.record_batch(
        [pa.array([sample_id]), height, width, _binary(image), mask_height, mask_width, _binary(mask), label],
        schema=SHARD_SCHEMA,
    )


def _binary(array: np.ndarray) -> pa.LargeBinaryArray:
    """One binary value over the array's memory, not copied."""
    offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])

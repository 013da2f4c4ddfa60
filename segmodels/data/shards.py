"""Datasets as Arrow IPC shards of raw pixels: memory-mapped, random access, no decoding.

A shard folder holds ``{split}-{00000}.arrow`` files, one record batch per sample (``records.py`` has its columns), and
``statistics.json``. ``shard_writer.py`` writes them. The folder may lie in an object store, or hold ``statistics.json``
alone, which says where in a store each file is: records are then fetched on demand (``shard_files.py``).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from segmodels.annotations import Annotation
from segmodels.data.file_cache import FileCache
from segmodels.data.object_store import is_url
from segmodels.data.records import Record, record_schema
from segmodels.data.sample_order import WINDOW, order_name, shuffled
from segmodels.data.shard_files import CACHE_BYTES, LARGE_PIECE, PIECE, LocalFile, StoredFile
from segmodels.data.shard_info import read_info
from segmodels.data.statistics import DatasetStatistics
from segmodels.errors import InputError
from segmodels.files import DamagedFileError, cache_folder, reading
from segmodels.labels import LabelMap

T = TypeVar("T")


class ShardReader:
    """The samples of one split, memory-mapped.

    Pickles as its folder and split: a worker process opens its own map. Pages are read when touched, so a crop of a
    large image costs the crop; but the first time that a sample is read, its checksum is compared.

    Args:
        folder: of the shards, or its URL in an object store.
        cache_bytes: limit of the local copies of shards in an object store; they lie in the folder ``shards`` of
            ``files.cache_folder()``.

    Attributes:
        labels, statistics, digest, longer_side, source: as in ``ShardInfo``.
        dtype, channels, spatial_dims: of every image: ``(*spatial, channels)``.
        annotated: whether any sample of the split is annotated.
        has_objects: whether any sample of the dataset has objects.
        is_local: whether the shards lie on the local disk.
        windowed: whether ``shuffled`` reads the shards window by window, because not all of the split fit the cache.
        shards_at_once: number of shards that are on the local disk while the samples are read in an order.

    Raises:
        InputError: no such split, or a shard that is missing or damaged; names it.
        TransientError: an object store does not answer.
    """

    def __init__(self, folder: str | Path, split: str, *, cache_bytes: float = CACHE_BYTES) -> None:
        self.folder = folder if is_url(folder) else Path(folder)
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
        self.neighbours: int = info.form.neighbours
        self.annotated = any(shard["annotated"] for shard in info.shards[split])
        self.has_objects = any(shard["objects"] for shards in info.shards.values() for shard in shards)
        self._form = info.form
        self._shards = info.shards[split]
        self._ends = np.cumsum([shard["samples"] for shard in self._shards])
        self._cache_bytes = cache_bytes
        stored = [shard["bytes"] for shard in self._shards if shard.get("url", info.url)]
        self.is_local = not stored
        self.windowed = sum(stored) > cache_bytes
        cache = FileCache(cache_folder() / "shards", cache_bytes)
        piece = LARGE_PIECE if self.windowed else PIECE  # the samples of a window are all needed soon
        self._files: list[LocalFile | StoredFile] = [
            StoredFile(f"{url}/{shard['file']}", info.version, shard["bytes"], cache, piece)
            if (url := shard.get("url", info.url))
            else LocalFile(Path(folder) / shard["file"], shard["bytes"])
            for shard in self._shards
        ]
        self.shards_at_once = len(self._files)
        if self.windowed:
            self.shards_at_once = min(len(self._files), 2 * WINDOW, max(1, int(cache_bytes // max(stored))))
        for file in self._files:
            with reading(file.address, "preprocess"):
                file.check()
        self._open: dict[int, tuple[pa.ipc.RecordBatchFileReader, mmap.mmap]] = {}
        self._versions: dict[int, tuple[int, int]] = {}
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
        if all("sizes" in shard for shard in self._shards):
            runs = [run for shard in self._shards for run in shard["sizes"]]
            return np.repeat(np.array([size for _, size in runs]), [count for count, _ in runs], axis=0)
        return np.array([self._read(index, lambda record: record.size) for index in range(len(self))])

    @property
    def largest(self) -> tuple[int, ...]:
        """The size of the image with the most pixels."""
        return tuple(map(int, self.sizes[self.sizes.prod(axis=1).argmax()]))

    @cached_property
    def groups(self) -> list[str]:
        """Group that each sample shares with others, as in the manifest; empty for none, or where it is not known."""
        runs = (run for shard in self._shards for run in shard.get("groups", [[shard["samples"], ""]]))
        return [str(name) for count, name in runs for _ in range(count)]

    @cached_property
    def image_labels(self) -> np.ndarray:
        """Class of every whole image, int64 ``(N,)``; -1 where the dataset has none."""
        labels = (self._read(index, lambda record: record.value("image_label")) for index in range(len(self)))
        return np.array([-1 if label is None else label for label in labels], dtype=np.int64)

    @property
    def order_name(self) -> str:
        """Of the orders that ``shuffled`` gives; part of the key of a training's checkpoints."""
        return order_name(self._ends, self.windowed)

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """The numbers of all samples in a random order."""
        return shuffled(rng, self._ends, self.windowed)

    def at_hand(self, index: int) -> range:
        """Numbers of the samples that are read without another download while this one is: all, or those of its shard
        where the shards are read window by window.
        """
        if not self.windowed:
            return range(len(self))
        return self.samples_of(self._locate(index)[0])

    def check_window(self) -> None:
        """Raise InputError where the cache is too small for the shards that ``shuffled`` reads at once."""
        if self.windowed and self.shards_at_once <= WINDOW:
            largest, wanted = max(shard["bytes"] for shard in self._shards), min(WINDOW + 1, len(self._shards))
            raise InputError(
                f"the cache of shards may hold {self._cache_bytes / 1e9:g} GB, expected room for {wanted} of the"
                f" shards of split {self.split!r} in {self.folder}, which have up to {largest / 1e9:.2g} GB: raise"
                " train.cache_gigabytes or lower preprocess.shard_megabytes"
            )

    def shards_of(self, samples: ArrayLike) -> set[int]:
        """Numbers of the shards that hold these samples."""
        return set(np.searchsorted(self._ends, samples, side="right").tolist())

    def samples_of(self, shard: int) -> range:
        """Numbers of the samples of a shard."""
        return range(int(self._ends[shard - 1]) if shard else 0, int(self._ends[shard]))

    def fetch(self, index: int) -> None:
        """Put a sample from an object store onto the local disk. Raises what reading it would raise."""
        shard, place = self._locate(index)
        with self._reading(shard):
            self._files[shard].fetch(place)

    def release(self) -> None:
        """Drop the memory maps, and with them the pages read so far; they are mapped again when next read. Views handed
        out stay valid.
        """
        self._open.clear()
        self._last = None

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ShardReader, self.folder, self.split, cache_bytes=self._cache_bytes), ()

    def _read(self, index: int, part: Callable[[Record], T], check: bool = False) -> T:
        """A part of a sample's record."""
        shard, place = self._locate(index)
        last = self._last  # another thread may read or release at any time
        with self._reading(shard):
            if last is not None and last[0] == index and (not check or index in self._intact):
                return part(last[1])
            reader, pages = self._map(shard, place)
            record = Record(reader.get_batch(place), self.labels, self._form)
            self._last = index, record
            if check and index not in self._intact:
                record.check(pages)
                self._intact.add(index)
            return part(record)

    def _checked(self, index: int, part: Callable[[Record], T]) -> T:
        """A part of a record whose checksum has been compared."""
        return self._read(index, part, check=True)

    @contextmanager
    def _reading(self, shard: int) -> Iterator[None]:
        """Name the shard in whatever fails in the block, and forget a copy that is damaged."""
        try:
            with reading(self._files[shard].address, "preprocess"):
                yield
        except DamagedFileError:
            self._files[shard].discard()
            raise

    def _locate(self, index: int) -> tuple[int, int]:
        """Shard and place in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of split {self.split!r}, which has {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - self.samples_of(shard).start

    def _map(self, shard: int, place: int) -> tuple[pa.ipc.RecordBatchFileReader, mmap.mmap]:
        """The map of a shard, with the record at this place."""
        file, opened = self._files[shard], self._open.get(shard)  # another thread may release the maps at any time
        if opened is None or not file.has(place, opened[1]):
            with file.open(place) as content:
                self._note_version(shard, os.fstat(content.fileno()))
                pages = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages)))
            if (
                reader.schema != record_schema(self.labels)
                or reader.num_record_batches != self._shards[shard]["samples"]
            ):
                raise ValueError(f"{reader.num_record_batches} samples of schema {reader.schema.names}")
            if self.windowed and len(self._open) >= WINDOW:  # a file that was removed keeps its room while it is mapped
                self._open.pop(next(iter(self._open)), None)
            opened = self._open[shard] = reader, pages
        return opened

    def _note_version(self, shard: int, facts: os.stat_result) -> None:
        """Checksums are compared again where the file is not the one that was mapped before."""
        version = facts.st_ino, facts.st_mtime_ns
        if self._versions.setdefault(shard, version) != version:
            self._versions[shard] = version
            self._intact.difference_update(self.samples_of(shard))

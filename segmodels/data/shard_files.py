"""Where the files of shards lie: on the local disk, or in an object store, from which records are fetched on demand."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from segmodels.data.file_cache import FileCache, locked
from segmodels.data.object_store import forget_connections, read_range
from segmodels.data.record_ranges import HEAD, TRAILER, footer_size, record_ranges
from segmodels.data.shared_calls import SharedCalls

CACHE_BYTES = 10e9
"""Limit of the cache unless another is given."""

PIECE, LARGE_PIECE = 2**19, 2**22
"""Bytes of a file. One request fetches all records that begin in the same piece. Large pieces cost less time of the
processor, small ones bring no more than what is needed next.
"""

CHUNK = 2**23
"""Most bytes of a request."""

END = 2**18
"""Bytes at the end of a file that the first request fetches. Few files have a longer footer."""

STREAMS = 4
"""Requests at once for a whole file."""

_fetching = SharedCalls()


@dataclass(frozen=True)
class LocalFile:
    """A shard on the local disk."""

    path: Path
    size: int

    @property
    def address(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Raise ValueError if it has another size; FileNotFoundError."""
        if (found := self.path.stat().st_size) != self.size:
            raise ValueError(f"{found} bytes, expected {self.size}")

    def open(self, record: int) -> AbstractContextManager[BinaryIO]:
        """The file, whichever record is wanted."""
        return self.path.open("rb")

    def has(self, record: int, pages: mmap.mmap) -> bool:
        """True."""
        return True

    def fetch(self, record: int) -> None:
        """Nothing: it is here."""

    def discard(self) -> None:
        """Nothing: only copies are discarded when they turn out to be damaged."""


@dataclass(frozen=True)
class StoredFile:
    """A shard in an object store, and its copy on the local disk.

    The copy has the shard's size and its footer from the beginning. Each record is zeros until it is fetched; its first
    bytes are written last. One process or thread fetches a record, the others wait for it (on systems other than Linux
    several may fetch it, which gives the same bytes).

    Attributes:
        address: ``s3://...``, ``gs://...`` or ``file://...``.
        version: of the content: another one has another copy.
        size: bytes.
        cache: holds the copy.
        piece: bytes, see ``PIECE``.
    """

    address: str
    version: str
    size: int
    cache: FileCache
    piece: int

    def check(self) -> None:
        """Nothing: its size is compared when it is fetched."""

    @contextmanager
    def open(self, record: int) -> Iterator[BinaryIO]:
        """A copy that has the record. If nobody has fetched it yet, the whole shard is fetched, because the reader will
        need more of it.

        Raises:
            InputError: the store or the local disk refuses.
            TransientError: the store does not answer.
            FileNotFoundError: the store has no such file.
            ValueError: the file has another size, or is damaged.
        """
        with self._open_copy() as copy:
            if not _begins(copy, self._spans[record, 0]):
                with ThreadPoolExecutor(STREAMS) as pool:
                    spans = np.unique(self._spans, axis=0).tolist()
                    for _ in pool.map(lambda span: self._add(copy, *span), spans):
                        pass  # raises what a thread has raised
            yield copy

    def has(self, record: int, pages: mmap.mmap) -> bool:
        """Whether the record is in a copy; ``pages`` is a map of it."""
        start = self._spans[record, 0]
        return pages[start : start + len(HEAD)] == HEAD

    def fetch(self, record: int) -> None:
        """Put the record into the copy, unless it is there. Errors as of ``open``."""
        with self._open_copy() as copy:
            self._add(copy, *self._spans[record].tolist())

    def discard(self) -> None:
        """Remove a copy that turned out to be damaged."""
        self.cache.remove(self._name)
        self.__dict__.pop("_spans", None)
        forget_connections()

    @cached_property
    def _name(self) -> str:
        key = hashlib.sha256(f"{self.address} {self.version} {self.piece}".encode()).hexdigest()[:16]
        return f"{key}-{self.address.rpartition('/')[2]}"

    @cached_property
    def _spans(self) -> NDArray[np.int64]:
        """For each record the first byte of the request that fetches it, and the byte after its last, ``(N, 2)``."""
        with self._open_copy() as copy:
            footer = footer_size(os.pread(copy.fileno(), TRAILER, self.size - TRAILER))
            end = os.pread(copy.fileno(), footer, max(0, self.size - footer))
        starts, stops = record_ranges(end, self.size).T
        _, first, piece = np.unique(starts // self.piece, return_index=True, return_inverse=True)
        last = np.append(first[1:], len(starts)) - 1
        return np.stack([starts[first], stops[last]], axis=1)[piece]

    def _open_copy(self) -> BinaryIO:
        return self.cache.open(self._name, self.size, self._add_footer)

    def _add_footer(self, copy: BinaryIO) -> None:
        """Put the end of the file into a copy that nobody else has opened yet."""
        end = self._read(max(0, self.size - END), self.size)
        if (footer := footer_size(end)) > len(end):
            end = self._read(max(0, self.size - footer), self.size)
        record_ranges(end, self.size)  # raises ValueError
        self.cache.write(copy, self.size - len(end), end)

    def _add(self, copy: BinaryIO, start: int, stop: int) -> None:
        """Fetch the records from byte ``start`` to ``stop - 1`` into the copy, unless they are there."""
        if not _begins(copy, start):
            _fetching.make((os.fstat(copy.fileno()).st_ino, start), lambda: self._transfer(copy, start, stop))

    def _transfer(self, copy: BinaryIO, start: int, stop: int) -> None:
        """As ``_add``, unless another process does."""
        with locked(copy, start, stop):
            if _begins(copy, start):
                return
            for at in reversed(range(start, stop, CHUNK)):
                data = self._read(at, min(at + CHUNK, stop))
                if at == start and data[: len(HEAD)] != HEAD:
                    raise ValueError(f"no record begins at byte {start}")
                self.cache.write(copy, at + len(HEAD), data[len(HEAD) :])
                self.cache.write(copy, at, data[: len(HEAD)])

    def _read(self, start: int, stop: int) -> memoryview:
        return read_range(self.address, self.size, start, stop)


def _begins(copy: BinaryIO, start: int) -> bool:
    """Whether a record is at this byte, rather than zeros."""
    return os.pread(copy.fileno(), len(HEAD), start) == HEAD

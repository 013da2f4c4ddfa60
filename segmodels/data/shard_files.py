"""Where the files of shards lie: on the local disk, or in an object store that is read through a cache on the disk.

pyarrow's file systems read ``s3://``, ``gs://`` and ``file://``. Credentials come from the environment or the user's
configuration, as for every tool of that store; the variable ``AWS_ENDPOINT_URL`` leads to another S3 store than AWS.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from segmodels.errors import InputError, TransientError, on_one_line, refusal
from segmodels.files import reason

CACHE_BYTES = 10e9
"""Limit of the cache unless another is given."""

ATTEMPTS = 6
SECONDS_BEFORE_RETRY = 0.5
"""Doubled after each attempt; pyarrow retries single requests on top, for about a second."""

CHUNK, STREAMS = 2**24, 4
"""Bytes of a request, and requests at once for one file: together they hide the latency of a store."""

REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", *(f"HTTP status {code}" for code in (400, 401, 403)))
"""Parts of pyarrow's messages that name no outage but wrong credentials or a wrong address."""

GOOGLE_SECONDS = 30
"""The longest that pyarrow retries a request to ``gs://``, instead of 15 minutes."""

PARTIAL, LOCK = ".partial", ".lock"


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

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def discard(self) -> None:
        """Nothing: only copies are discarded when they turn out to be damaged."""


@dataclass(frozen=True)
class StoredFile:
    """A shard in an object store. It is fetched when it is opened, and its copy stays until others need the room: those
    not opened for longest are removed.

    Any number of processes share the cache: one of them fetches a file, the others wait for it. A copy of its final
    name is whole. Removing a copy that a process has mapped does not disturb that process.

    Attributes:
        address: ``s3://...``, ``gs://...`` or ``file://...``.
        version: of the content: another one has another copy.
        size: bytes.
        cache: folder of the copies; may be emptied at any time.
        limit: bytes of all files in ``cache``.
    """

    address: str
    version: str
    size: int
    cache: Path
    limit: float

    def check(self) -> None:
        """Nothing: its size is compared when it is fetched."""

    def open(self) -> BinaryIO:
        """The copy.

        Raises:
            InputError: the store or the local disk refuses.
            TransientError: the store does not answer.
            FileNotFoundError: the store has no such file.
            ValueError: the file has another size.
        """
        while True:
            with suppress(FileNotFoundError), _on_disk(self.cache):
                file = self._copy.open("rb")
                modified = os.fstat(file.fileno()).st_mtime_ns
                os.utime(file.fileno(), ns=(time.time_ns(), modified))  # the file system may not note accesses
                return file
            self._fetch()

    def discard(self) -> None:
        """Remove a copy that turned out to be damaged."""
        self._copy.unlink(missing_ok=True)

    @cached_property
    def _copy(self) -> Path:
        key = hashlib.sha256(f"{self.address} {self.version}".encode()).hexdigest()[:16]
        return self.cache / f"{key}-{self.address.rpartition('/')[2]}"

    def _fetch(self) -> None:
        """Put a copy into the cache, unless another process or thread does."""
        copy = self._copy
        partial = copy.with_name(copy.name + PARTIAL)
        with _on_disk(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
            opened = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        with opened as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for whoever fetches it now
            if not _is_still(partial, file):
                return
            try:
                if not copy.exists():
                    self._make_room(file)
                    self._transfer(file)
                    partial.replace(copy)
            finally:
                if _is_still(partial, file):
                    partial.unlink()

    def _make_room(self, wanted: BinaryIO) -> None:
        """Remove what was not opened for longest until there is room for ``wanted``, and give it its size."""
        with (self.cache / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.truncate(wanted.fileno(), 0)
            files = sorted(_files(self.cache))
            excess = sum(held for _, held, _ in files) + self.size - self.limit
            for _, held, path in files:
                if _is_abandoned(path) if path.suffix == PARTIAL else excess > 0:
                    path.unlink(missing_ok=True)
                    excess -= held
            os.truncate(wanted.fileno(), self.size)

    def _transfer(self, file: BinaryIO) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _translated(self.address):
                    self._transfer_once(file)
                return
            except TransientError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(SECONDS_BEFORE_RETRY * 2 ** (attempt - 1))

    def _transfer_once(self, file: BinaryIO) -> None:
        size, (store, path) = self.size, _in_file_system(self.address)
        with store.open_input_file(path) as source, ThreadPoolExecutor(STREAMS) as pool:
            if (found := source.size()) != size:
                raise ValueError(f"{found} bytes, expected {size}")

            def transfer(offset: int) -> None:
                data = memoryview(source.read_at(min(CHUNK, size - offset), offset))
                if len(data) != min(CHUNK, size - offset):
                    raise OSError("the file ended early")
                with _on_disk(self.cache):
                    while data:
                        written = os.pwrite(file.fileno(), data, offset)
                        data, offset = data[written:], offset + written

            for _ in pool.map(transfer, range(0, size, CHUNK)):
                pass


def read_stored(address: str) -> bytes:
    """The content of a small file in an object store.

    Raises:
        InputError: the address cannot be understood, or the store refuses.
        TransientError: the store does not answer.
        FileNotFoundError: there is no such file.
    """
    with _translated(address):
        store, path = _in_file_system(address)
        with store.open_input_file(path) as file:
            return file.read()


def is_url(folder: str | Path) -> bool:
    """Whether shards lie in an object store."""
    return "://" in str(folder)


def _in_file_system(address: str) -> tuple[Any, str]:
    """pyarrow's file system, and the path in it."""
    folder, _, name = address.rpartition("/")
    store, path = _file_system(folder)
    return store, f"{path}/{name}"


@lru_cache(maxsize=16)
def _file_system(url: str) -> tuple[Any, str]:
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if url.startswith("s3://") and endpoint:  # from_uri would ask AWS for the bucket's region
        scheme, _, host = endpoint.rstrip("/").rpartition("://")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        store = fs.S3FileSystem(
            endpoint_override=host,
            scheme=scheme or "https",
            region=region,
            connect_timeout=10,
            tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
        )
        return store, url.removeprefix("s3://").rstrip("/")
    try:
        google = url.startswith("gs://") and "?" not in url
        store, folder = fs.FileSystem.from_uri(f"{url}?retry_limit_seconds={GOOGLE_SECONDS}" if google else url)
    except ValueError as error:
        raise InputError(
            f"shards at {url} cannot be read ({reason(error)}): expected s3://bucket/prefix, gs://bucket/prefix or"
            " file:///folder"
        ) from None
    return store, folder.rstrip("/")


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Errors of a store, which pyarrow raises without a number, in one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno:  # there is no such file, or the local disk refuses
            raise
        if any(part in str(error) for part in REFUSED):
            raise InputError(
                f"{address} cannot be read, the store refuses ({on_one_line(error)}): check the address, the"
                " credentials and the bucket's permissions"
            ) from None
        raise TransientError(f"{address} cannot be read from its store ({on_one_line(error)})") from None


@contextmanager
def _on_disk(cache: Path) -> Iterator[None]:
    """Errors of the local disk, which name the cache, but for a file that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(refusal(error, cache)) from None


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """When each file was last opened, its size, and its path."""
    for path in folder.iterdir():
        if path.name != LOCK:
            with suppress(FileNotFoundError):  # another process has just renamed it
                facts = path.stat()
                yield facts.st_atime_ns, facts.st_size, path


def _is_still(path: Path, file: BinaryIO) -> bool:
    """Whether the open file has that path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _is_abandoned(partial: Path) -> bool:
    """Whether the process that fetched the file was killed."""
    try:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True

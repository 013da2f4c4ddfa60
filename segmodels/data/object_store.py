"""Reads files in an object store: small ones whole, large ones by ranges of bytes.

pyarrow's file systems read ``s3://``, ``gs://`` and ``file://``. Credentials come from the environment or the user's
configuration, as for every tool of that store; the variable ``AWS_ENDPOINT_URL`` leads to another S3 store than AWS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from segmodels.errors import InputError, TransientError, on_one_line
from segmodels.files import reason

ATTEMPTS = 6
SECONDS_BEFORE_RETRY = 0.5
"""Doubled after each attempt; pyarrow retries single requests on top, for about a second."""

REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", *(f"HTTP status {code}" for code in (400, 401, 403)))
"""Parts of pyarrow's messages that name no outage but wrong credentials or a wrong address."""

GOOGLE_SECONDS = 30
"""The longest that pyarrow retries a request to ``gs://``, instead of 15 minutes."""

OPEN_FILES = 128
"""Files that stay open: to open one is a request of its own."""


def is_url(folder: str | Path) -> bool:
    """Whether shards lie in an object store."""
    return "://" in str(folder)


def read_stored(address: str) -> bytes:
    """The content of a small file.

    Raises:
        InputError: the address cannot be understood, or the store refuses.
        TransientError: the store does not answer.
        FileNotFoundError: there is no such file.
    """
    with _translated(address):
        store, path = _in_file_system(address)
        with store.open_input_file(path) as file:
            return file.read()


def read_range(address: str, size: int, start: int, stop: int) -> memoryview:
    """Bytes ``start`` to ``stop - 1`` of a file, by one request. Several threads may read at once.

    Args:
        size: of the file, bytes.

    Raises:
        InputError, TransientError, FileNotFoundError: as ``read_stored``, after several attempts.
        ValueError: the file has another size.
    """
    attempt = 1
    while True:
        try:
            with _translated(address):
                data = memoryview(_opened(address, size).read_at(stop - start, start))
                if len(data) != stop - start:
                    raise OSError("the file ended early")
                return data
        except TransientError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(SECONDS_BEFORE_RETRY * 2 ** (attempt - 1))
            attempt += 1


def forget_connections() -> None:
    """Look stores and files up again when they are next read: they may be others by then."""
    _opened.cache_clear()
    _file_system.cache_clear()


@lru_cache(maxsize=OPEN_FILES)
def _opened(address: str, size: int) -> Any:
    store, path = _in_file_system(address)
    file = store.open_input_file(path)
    if (found := file.size()) != size:
        raise ValueError(f"{found} bytes, expected {size}")
    return file


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
        if error.errno:  # there is no such file
            raise
        if any(part in str(error) for part in REFUSED):
            raise InputError(
                f"{address} cannot be read, the store refuses ({on_one_line(error)}): check the address, the"
                " credentials and the bucket's permissions"
            ) from None
        raise TransientError(f"{address} cannot be read from its store ({on_one_line(error)})") from None

"""Shards in a store, an empty cache for each test."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slow_store import Store, slow_store
from stored_shards import write_shards

from segmodels.data import object_store
from segmodels.data.object_store import forget_connections


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of equal size in ``bucket/shards`` of a store."""
    folder = tmp_path_factory.mktemp("store") / "bucket" / "shards"
    folder.mkdir(parents=True)
    write_shards(folder)
    return folder


@pytest.fixture(autouse=True)
def _alone() -> None:
    """Threads of an earlier test may still be reading ahead; a test that stands in for the store would meet them."""
    until = time.monotonic() + 5
    for thread in threading.enumerate():
        if thread.name == "shards":
            thread.join(max(0.0, until - time.monotonic()))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "SECONDS_BEFORE_RETRY", 0.0)
    return tmp_path / "cache" / "shards"


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Store]:
    with slow_store(folder.parents[1], latency=0.002, **getattr(request, "param", {})) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        forget_connections()
        yield store
    forget_connections()

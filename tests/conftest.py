"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from s3server import Server

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
"""Processes that tests start, in whatever folder, import the code of this checkout."""

settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")  # the same examples every time, however busy the machine is


@pytest.fixture(autouse=True)
def credentials_are_read_anew() -> None:
    """boto3 gives all clients of a process the credentials that the first of them found in the environment."""
    if boto3 := sys.modules.get("boto3"):
        boto3.DEFAULT_SESSION = None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real datasets in their original layouts; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("SEGMODELS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets in {folder}: set SEGMODELS_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server for all tests, each of which makes its own buckets."""
    from s3server import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_store: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server; the environment tells every other client where it is."""
    from components.storage.s3 import s3_client

    for name, value in s3_store.environment.items():
        monkeypatch.setenv(name, value)
    return s3_client()

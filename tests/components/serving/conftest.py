"""A served model, for tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from small_pipeline import write_model
from small_server import served


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net that knows the scenes of small_pipeline; a file with another model defines its own."""
    return write_model(tmp_path_factory.mktemp("serve") / "scenes", steps=20)


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[TestClient]:
    with served(str(model)) as (client, _):
        yield client

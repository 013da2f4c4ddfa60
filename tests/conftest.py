"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
"""Processes that tests start, in whatever folder, import the code of this checkout."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real datasets in their original layouts; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("SEGMODELS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets in {folder}: set SEGMODELS_SHARED_DATA to their folder")
    return folder

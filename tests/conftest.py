"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
"""Processes that tests start, in whatever folder, import the code of this checkout."""

settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")  # the same examples every time, however busy the machine is


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real datasets in their original layouts; tests that need it skip where it is not there."""
    folder = Path(os.environ.get("SEGMODELS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets in {folder}: set SEGMODELS_SHARED_DATA to their folder")
    return folder

"""Fixtures of the tests of register."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from registry_workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Here no model can be exported, as is true of some: the decision does not depend on it, and exporting takes most
    of the time.
    """
    from registry_workplace import Workplace  # MLflow takes seconds, and most tests of steps need none
    from small_pipeline import use_local_store

    def refuse(*_: Any) -> NoReturn:
        raise RuntimeError("torch.export: data-dependent sizes")

    monkeypatch.setattr("segmodels.inference.export.export_program", refuse)
    use_local_store(tmp_path, monkeypatch)
    return Workplace(tmp_path)

"""Fixtures of the tests of register."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from registry_workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Here no model can be exported, as is true of some, and none carries the library's 300 files, which MLflow copies
    twice: the decision depends on neither, and both take most of the time.
    """
    from registry_workplace import Workplace  # MLflow takes seconds, and most tests of steps need none
    from small_pipeline import use_local_store

    def refuse(*_: Any) -> NoReturn:
        raise RuntimeError("torch.export: data-dependent sizes")

    monkeypatch.setattr("segmodels.inference.export.export_program", refuse)
    monkeypatch.setattr("mlflow.pyfunc.model._validate_infer_and_copy_code_paths", lambda *_: None)
    use_local_store(tmp_path, monkeypatch)
    return Workplace(tmp_path)

"""Whether a scheduled run trains. (With a real registry: tests/pipelines/test_local_run.py.)"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.kubeflow.changed import changed
from components.params.schema import PipelineParams
from components.tracking.model_registry import Registry, Version

NOW = {"data_revision": "r", "code_revision": "1" * 40, "pipeline_params_digest": "p"}
FILES = ("revision", "digest", "decision", "init", "anew")
OLD = {**NOW, "data_revision": "older"}


@pytest.mark.parametrize(
    ("champion", "challenger", "answer", "words", "confirmed"),
    [
        (None, None, "train", "has no champion yet", None),
        (OLD, None, "train", "new since the champion, version 1: data revision: the run continues", None),
        (NOW, None, "skip", "nothing is new since the champion, version 1", "1"),
        (OLD, NOW, "skip", "nothing is new since the challenger, version 2", "2"),
        (None, NOW, "skip", "nothing is new since the challenger, version 2", "2"),
        (OLD, OLD, "train", "new since the champion, version 1", None),
    ],
)
def test_what_lost_against_the_champion_is_not_trained_again(
    champion: Mapping[str, str] | None,
    challenger: Mapping[str, str] | None,
    answer: str,
    words: str,
    confirmed: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tagged: list[tuple[str, Any]] = []
    monkeypatch.setattr("components.tracking.client.mlflow_client", lambda: None)
    monkeypatch.setattr("components.datasets.revision.dataset_revision", lambda _: NOW["data_revision"])
    monkeypatch.setattr("components.tracking.lineage.code_revision", lambda: NOW["code_revision"])
    monkeypatch.setattr("components.tracking.lineage.params_digest", lambda _: NOW["pipeline_params_digest"])
    monkeypatch.setattr(Registry, "champion", lambda _: Version("1", champion) if champion else None)
    monkeypatch.setattr(Registry, "challenger", lambda _: Version("2", challenger) if challenger else None)
    monkeypatch.setattr(Registry, "set_tags", lambda _, version, tags: tagged.append((version.number, tags)))
    monkeypatch.setenv("SEGMODELS_PIPELINE_RUN", "run-7")
    assert changed(PipelineParams(), *(tmp_path / name for name in FILES)) == answer
    assert (tmp_path / "decision").read_text() == answer
    assert words in capsys.readouterr().out
    assert tagged == ([(confirmed, {"confirmed_by_pipeline_run": "run-7"})] if confirmed else [])

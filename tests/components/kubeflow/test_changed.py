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
OLD = {**NOW, "data_revision": "older", "decision": "champion"}
CHAMPION, CHALLENGER = {**NOW, "decision": "champion"}, {**NOW, "decision": "challenger"}
ROLLED_BACK, ARCHIVED = {**NOW, "decision": "rolled back"}, {**CHAMPION, "archived": "trained on wrong labels"}


@pytest.mark.parametrize(
    ("champion", "versions", "answer", "words", "confirmed"),
    [
        (None, [], "train", "has no champion yet", None),
        ("1", [OLD], "train", "new since the champion, version 1: data revision: the run continues", None),
        ("1", [CHAMPION], "skip", "nothing is new since version 1 (champion; data", "1"),
        ("1", [CHAMPION, CHALLENGER], "skip", "nothing is new since version 1 (champion; data", "1"),
        ("1", [OLD, CHALLENGER], "skip", "nothing is new since version 2 (challenger; data", "2"),
        (None, [CHALLENGER], "skip", "nothing is new since version 1 (challenger; data", "1"),
        ("1", [OLD, {**OLD, "decision": "challenger"}], "train", "new since the champion, version 1", None),
        ("1", [OLD, ROLLED_BACK], "skip", "nothing is new since version 2 (rolled back; data", "2"),
        ("1", [OLD, ARCHIVED], "skip", "nothing is new since version 2 (archived; data", "2"),
        ("2", [CHAMPION, OLD], "skip", "nothing is new since version 1 (replaced as champion; data", "1"),
        (None, [CHAMPION], "train", "has no champion yet", None),
    ],
)
def test_what_is_a_version_already_is_not_trained_again(
    champion: str | None,
    versions: list[Mapping[str, str]],
    answer: str,
    words: str,
    confirmed: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {str(number): Version(str(number), tags) for number, tags in enumerate(versions, 1)}
    same = [version for version in reversed(known.values()) if version.tags["pipeline_params_digest"] == "p"]
    tagged: list[tuple[str, Any]] = []
    monkeypatch.setattr("components.tracking.client.mlflow_client", lambda: None)
    monkeypatch.setattr("components.datasets.revision.dataset_revision", lambda _: NOW["data_revision"])
    monkeypatch.setattr("components.tracking.lineage.code_revision", lambda: NOW["code_revision"])
    monkeypatch.setattr("components.tracking.lineage.params_digest", lambda _: NOW["pipeline_params_digest"])
    monkeypatch.setattr(Registry, "champion", lambda _: known.get(champion or ""))
    monkeypatch.setattr(Registry, "tagged", lambda *_: same)
    monkeypatch.setattr(Registry, "set_tags", lambda _, version, tags: tagged.append((version.number, tags)))
    monkeypatch.setenv("SEGMODELS_PIPELINE_RUN", "run-7")
    assert changed(PipelineParams(), *(tmp_path / name for name in FILES)) == answer
    assert (tmp_path / "decision").read_text() == answer
    assert words in capsys.readouterr().out
    assert [(number, tags["confirmed_by_pipeline_run"]) for number, tags in tagged] == (
        [(confirmed, "run-7")] if confirmed else []
    )

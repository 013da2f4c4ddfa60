"""doctor's checks: a line each, what to do where something is wrong, no secret."""

from pathlib import Path

import pytest
from ports import free_port
from small_pipeline import use_local_store

from components.__main__ import main
from components.commands import checkup
from components.tracking.client import mlflow_client


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(checkup, "CHECKS", {name: checkup.CHECKS[name] for name in names})


def test_all_is_well_with_a_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_local_store(tmp_path, monkeypatch)
    only(monkeypatch, "MLflow", "S3", "Kubeflow", "GPU", "/dev/shm", "disk", "limits")
    monkeypatch.setattr(checkup, "LEAST_FREE", 1)
    monkeypatch.setattr(checkup, "LEAST_SHARED", 1)
    monkeypatch.setattr(checkup, "LEAST_FILES", 1)
    monkeypatch.setattr(checkup, "_driver", lambda: "")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines] == ["OK", "--", "--", "--", "OK", "OK", "OK"]
    assert mlflow_client().search_runs(["0"]) == [], "the run that tried is gone"


def test_names_in_params_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    only(monkeypatch, "params")
    assert main(["doctor"]) == 0
    Path("params.yaml").write_text("train: {model: unet}")
    assert main(["doctor"]) == 0
    Path("params.yaml").write_text("train: {model: unett}")
    assert main(["doctor"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("-- params    there is no params.yaml")
    assert lines[1:] == [
        "OK params    params.yaml trains unet",
        "!! params    params.yaml, section train: unknown model 'unett': did you mean 'unet'?",
    ]


def test_what_is_wrong_says_what_to_do_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.lock").write_text("pytest==0.1 \\\n    --hash=sha256:00\nnot-installed==1.0\n")
    only(monkeypatch, "packages", "MLflow", "Kubeflow", "disk")
    monkeypatch.setattr(checkup, "LEAST_FREE", 1e30)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:SECRET@127.0.0.1:{free_port()}")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"http://me:SECRET@127.0.0.1:{free_port()}")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line[:2] for line in lines] == ["!!"] * 4
    assert "pytest" in lines[0]
    assert "locked 0.1" in lines[0]
    assert "does not answer" in lines[1]
    assert "KF_PIPELINES_ENDPOINT" in lines[2]
    assert "SECRET" not in captured.out + captured.err
    assert main(["doctor", "--repair"]) == 0

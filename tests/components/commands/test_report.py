"""What `make demo` ends with: tables and addresses, from the files of the steps."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.__main__ import main
from components.artifacts import DATASET, EVALUATION, METRICS, PER_CLASS, REGISTRATION, RUN

RUN_OF_TRAINING = {"run_id": "5eed", "tracking_uri": "sqlite:///mlflow.db", "experiment": "digits"}


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a run's steps that the report reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = tmp_path / "data"
    for name in ("dataset", "validation", "model", "evaluation", "registration"):
        (data / name).mkdir(parents=True)
    DATASET.write(
        data / "dataset",
        {
            "layout": "folder",
            "root": "files",
            "labels": {"classes": ["background", "one"]},
            "source": {},
            "revision": None,
            "digest": "5eed",
            "samples": {"train": 5, "test": 3},
        },
    )
    RUN.write(data / "model", RUN_OF_TRAINING | {"experiment_id": "7"})
    METRICS.write(data / "evaluation", {"mean_iou": 0.78125, "accuracy": 0.5})
    measured = {"params": {"batch_size": 1, "accelerator": "cpu"}, "task": "semantic", "settings": {}}
    digests = {"model_digest": "5eed", "data_digest": "5eed"}
    EVALUATION.write(data / "evaluation", measured | digests | {"headline": {"mean_iou": "MIoU"}})
    PER_CLASS.path(data / "evaluation").write_text("class,iou\none,0.5\n")
    words = {"name": "digits", "version": "2", "uri": "models:/digits/2", "alias": "champion", "reason": "it is better"}
    REGISTRATION.write(data / "registration", words | {"metric": "mean_iou", "value": 0.78125})
    return data


def test_it_shows_scores_and_addresses_without_importing_mlflow_or_torch(finished: Path) -> None:
    code = "import sys; from components.__main__ import main; main(['report']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=finished.parent, check=True)
    *_, modules = done.stdout.splitlines()
    assert not {"mlflow", "torch", "pandas", "great_expectations"} & set(modules.split())
    for words in (
        "test split, 3 images",
        "0.7812",
        "digits version 2 (champion)",
        "it is better",
        "make ui, then these links",
        "http://localhost:5000/#/experiments/7/runs/5eed?",
        "http://localhost:5000/#/models/digits/versions/2?",
    ):
        assert words in done.stdout


@pytest.mark.usefixtures("finished")
def test_addresses_are_those_of_the_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:password@mlflow.example/base")
    assert main(["report"]) == 0
    said = capsys.readouterr().out
    assert "https://mlflow.example/base/#/experiments/7/runs?" in said
    assert "password" not in said


def test_a_run_noted_without_its_experiment_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RUN.write(finished / "model", RUN_OF_TRAINING)
    assert main(["report"]) == 0
    assert "MLflow run    5eed" in capsys.readouterr().out


def test_scores_of_classes_are_whole_in_a_narrow_terminal_and_columns_without_any_left_out(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["objects", "ap", "ap50", "ap75", "ap_small", "ap_medium", "ar", "ar_small", "box_ap", "box_ap50"]
    rows = ("nucleus,1200,0.41,0.42,0.43,0.44,,0.45,0.46,0.47,0.48", "debris,0,,,,,,,,,")
    PER_CLASS.path(finished / "evaluation").write_text("\n".join((",".join(["class", *names]), *rows)))
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["report"]) == 0
    said = capsys.readouterr().out
    assert [f"0.4{last}00" in said for last in range(1, 9)] == [True] * 8
    assert "1,200" in said
    assert "AP50" in said
    assert "medium" not in said

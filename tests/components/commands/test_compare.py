"""compare: real runs in a real store, a table, and a page that needs no network; DVC says the same numbers."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Metric, Param
from small_pipeline import use_local_store, write_model, write_run, write_shards

from components.__main__ import main
from components.params.schema import EvaluateParams
from components.steps.evaluate import evaluate
from components.tracking.client import mlflow_client

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[dict[str, Any]]]:
    """A folder, the runs and scores of a model that was trained for a moment, and of one that was trained longer."""
    folder, runs, metrics = tmp_path_factory.mktemp("evaluated"), [], []
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_local_store(folder, monkeypatch)
        shards = write_shards(folder / "shards")
        for steps in (2, 30):
            model = write_model(folder / f"model{steps}", steps=steps)
            runs.append(write_run(model, folder / f"state{steps}", lr=steps / 100))
            metrics.append(evaluate(EvaluateParams(overlays=0), shards, model, folder / f"evaluation{steps}"))
    return folder, runs, metrics


@pytest.mark.parametrize("resamples", ["0", "-3"])
def test_a_number_of_resamples_that_gives_no_interval_is_refused(
    resamples: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--resamples", resamples]) == 2
    assert f"--resamples is {resamples}, expected at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_are_compared_with_intervals_and_a_page(
    evaluated: tuple[Path, list[str], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, runs, metrics = evaluated
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(folder)

    def said(*arguments: str, code: int = 0) -> str:
        assert main(["compare", *arguments]) == code
        return "".join(capsys.readouterr())

    printed = said(runs[0][:12], runs[1], "--html", "page.html", "--resamples", "300")
    for scores in metrics:
        assert f"{scores['mean_iou']:.4f}" in printed
    assert re.search(r"0\.\d{3} – \d\.\d{3}", printed), "intervals"
    gain = metrics[1]["mean_iou"] - metrics[0]["mean_iou"]
    assert f"{runs[1][:8]} is better than {runs[0][:8]}: mean_iou {gain:+.4f} (95% interval" in printed
    assert re.search(r"^ *lr +0\.02 +0\.3", printed, re.M)
    assert "epochs" not in printed, "only parameters that differ"
    page = Path("page.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") >= 1
    assert "test/5" in page, "images that differ"

    printed = said("--experiment", "tests")
    assert printed.index(runs[1][:8]) < printed.index(runs[0][:8]), "best first"

    for arguments, sentence in {
        ("0000",): "no run whose id starts with '0000'",
        ("%", "_"): "no run whose id starts with '%'",
        (runs[0], runs[0][:12]): f"run {runs[0]} is named twice",
        (runs[0],): f"'{runs[0]}' is the only run that is named",
        ("--experiment", "other"): "no experiment 'other'",
        ("--metric", "mean_iuo"): "did you mean 'mean_iou'",
        ("--shards", "shards"): "--html",
        ("models:/scenes/1",): "models:/scenes/1",
    }.items():
        assert sentence in said(*arguments, code=2)
    mlflow_client().delete_run(runs[0])
    assert f"run {runs[0]} is deleted in MLflow: restore it" in said(*runs, code=2)
    assert "MLflow has one finished run here" in said(code=2)
    mlflow_client().restore_run(runs[0])


@pytest.mark.slow
def test_dvc_says_the_numbers_of_mlflow(
    evaluated: tuple[Path, list[str], list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the project's entries for metrics and plots: of a commit, and of an experiment after it."""
    from dvc.cli import main as dvc  # slow to import, for this slow test alone

    folder, runs, metrics = evaluated
    for number, name in enumerate(("first", "second")):
        shutil.copytree(folder / f"evaluation{(2, 30)[number]}", tmp_path / name)
    whole = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    stage = {"cmd": "mkdir -p data && cp -r ${evaluation} data/evaluation", "outs": whole["stages"]["evaluate"]["outs"]}
    (tmp_path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"evaluate": stage}, **{name: whole[name] for name in ("metrics", "plots")}})
    )
    (tmp_path / "params.yaml").write_text("evaluation: first\n")
    (tmp_path / ".gitignore").write_text("/data/\n/first/\n/second/\n")
    monkeypatch.chdir(tmp_path)

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def said(*arguments: str) -> Any:
        done = subprocess.run(["dvc", *arguments, "--json"], env=environment, check=True, capture_output=True)
        return json.loads(done.stdout)

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments], check=True)

    git("init", "-q")
    assert dvc(["init", "-q"]) == 0
    (tmp_path / ".dvc" / "plots").symlink_to(ROOT / ".dvc" / "plots")
    assert dvc(["repro", "-q"]) == 0
    git("add", "-A")
    git("commit", "-qm", "first")
    assert dvc(["exp", "run", "-q", "-n", "second", "-S", "evaluation=second"]) == 0
    file = "data/evaluation/metrics.json"
    old, new = metrics
    diff = said("metrics", "diff", "--all")[file]
    assert {name: (one["old"], one["new"]) for name, one in diff.items()} == {
        name: (old[name], new[name]) for name in old
    }
    assert said("metrics", "show")[""]["data"][file]["data"] == new
    _, baseline = said("exp", "show")
    (experiment,) = (one["revs"][0] for one in baseline["experiments"] if one["name"] == "second")
    client = mlflow_client(f"sqlite:///{folder / 'mlflow.db'}")
    for row, scores, run in ((baseline, old, runs[0]), (experiment, new, runs[1])):
        assert row["data"]["metrics"][file]["data"] == scores
        logged = client.get_run(run).data.metrics
        assert logged["test/miou"] == scores["mean_iou"]
        assert logged["test/fwiou"] == scores["frequency_weighted_iou"]

    plots = said("plots", "diff")["data"]
    drawn = {name: plots[name][0]["content"]["data"]["values"] for name in ("confusion", "class IoU")}
    for revision, name in {"HEAD": "first", "workspace": "second"}.items():
        counts = json.loads((tmp_path / name / "confusion.json").read_text())["counts"]
        assert [int(one["count"]) for one in drawn["confusion"] if one["rev"] == revision] == [
            *itertools.chain(*counts)
        ]
        own = {one["class"]: one["iou"] for one in drawn["class IoU"] if one["rev"] == revision}
        with (tmp_path / name / "per_class.csv").open(newline="") as table:
            assert own == {one["class"]: one["iou"] for one in csv.DictReader(table)}


@pytest.mark.slow
def test_five_hundred_runs_are_compared_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_local_store(tmp_path, monkeypatch)
    client = mlflow_client()
    experiment = client.create_experiment("many")
    for number in range(500):
        run = client.create_run(experiment)
        metrics = [Metric(f"test/{name}", number / 500, 0, 0) for name in ("miou", "fwiou")]
        metrics += [Metric(f"test/{name}", 0.5, 0, 0) for name in ("pixel_accuracy", "mean_pixel_accuracy")]
        params = [Param(f"p{index}", str(number % (index + 1))) for index in range(40)]
        client.log_batch(run.info.run_id, metrics=metrics, params=params)
        client.set_terminated(run.info.run_id)
    began = time.process_time()  # whatever else the machine does
    assert main(["compare", "--experiment", "many"]) == 0
    assert time.process_time() - began < 5
    assert "0.9980" in capsys.readouterr().out

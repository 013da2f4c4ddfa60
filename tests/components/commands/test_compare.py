"""compare: real runs in a real store, a table, and a page that needs no network."""

import re
import time
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param
from small_pipeline import use_local_store, write_model, write_run, write_shards

from components.__main__ import main
from components.params.schema import EvaluateParams
from components.steps.evaluate import evaluate
from components.tracking.client import mlflow_client


@pytest.mark.slow
def test_runs_are_compared_with_intervals_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was trained for a moment, and one that was trained longer."""
    monkeypatch.setenv("COLUMNS", "300")
    use_local_store(tmp_path, monkeypatch)
    shards, runs, metrics = write_shards(tmp_path / "shards"), [], []
    for steps in (2, 30):
        model = write_model(tmp_path / f"model{steps}", steps=steps)
        runs.append(write_run(model, tmp_path / f"state{steps}", lr=steps / 100))
        metrics.append(evaluate(EvaluateParams(overlays=0), shards, model, tmp_path / f"evaluation{steps}"))

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
    page = (tmp_path / "page.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") >= 1
    assert "test/5" in page, "images that differ"

    printed = said("--experiment", "tests")
    assert printed.index(runs[1][:8]) < printed.index(runs[0][:8]), "best first"

    for arguments, sentence in {
        ("0000",): "no run whose id starts with '0000'",
        ("--experiment", "other"): "no experiment 'other'",
        ("--metric", "mean_iuo"): "did you mean 'mean_iou'",
        ("--shards", "shards"): "--html",
        ("models:/scenes/1",): "models:/scenes/1",
    }.items():
        assert sentence in said(*arguments, code=2)


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

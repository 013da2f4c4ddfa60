"""reproduce: a registered version is made again, bit for bit."""

import re
from pathlib import Path

import pytest
from small_pipeline import use_local_store, write_shards

from components.__main__ import main
from components.params.checking import checked
from components.params.schema import EvaluateParams, RegisterParams, TrainParams
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.steps.train import train
from components.tracking.client import mlflow_client
from components.tracking.reproduction import recorded_params

SMALL = {
    "options": {"widths": [4, 8]},
    "epochs": 2,
    "batch_size": 4,
    "lr": 0.003,
    "accelerator": "cpu",
    "precision": "float32",
    "augment": {"crop": [16, 16]},
}


def test_the_parameters_of_a_run_are_those_that_it_was_given() -> None:
    params = {"lr": "0.003", "options.widths": "[4, 8]", "task": "None", "loss.dice": "1.0", "model": "unet"}
    facts = {"parameters": "1234", "classes": "4"}
    assert recorded_params(params | facts) == {
        "lr": 0.003,
        "options": {"widths": [4, 8]},
        "task": None,
        "loss": {"dice": 1.0},
        "model": "unet",
    }


@pytest.mark.slow
def test_a_registered_version_is_reproduced_bit_for_bit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    shards = write_shards(tmp_path / "shards", train=12, val=4, scale=1)
    model, evaluation, registration = (tmp_path / name for name in ("model", "evaluation", "registration"))
    train(checked(TrainParams, SMALL), shards, model, tmp_path / "checkpoints")
    evaluate(EvaluateParams(overlays=0), shards, model, evaluation)
    register(RegisterParams(name="scenes"), shards, model, evaluation, registration)
    (tmp_path / "params.yaml").write_text("train: {lr: 0.5}\n")
    assert main(["reproduce", "scenes/1", "--shards", "shards", "--retrain"]) == 0
    said = capfd.readouterr().out
    assert "confusion      identical" in said
    assert "weights        identical, bit for bit" in said
    assert re.search(r"^params digest +\w+, here \w+$", said, re.M), "this workspace has others"
    assert "parameters are not complete" not in said
    assert len(mlflow_client().search_runs(["1"])) == 1, "no run of the repetition"
    write_shards(tmp_path / "other", scale=1, digest="f" * 32)
    assert main(["reproduce", "scenes/1", "--shards", "other"]) == 2
    assert "holds other data" in capfd.readouterr().err

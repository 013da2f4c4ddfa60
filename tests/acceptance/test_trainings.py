"""Trainings as processes: killed at random moments and taken up by the next `dvc repro`; shared by two processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pod_processes import Pod
from safetensors.torch import load_file
from small_pipeline import write_shards

from components.tracking.client import mlflow_client

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
PARAMS = {
    "train": {
        "options": {"widths": [8, 16]},
        "epochs": 6,
        "batch_size": 4,
        "accelerator": "cpu",
        "precision": "float32",
        "augment": {"crop": [20, 24]},
    }
}
INTERRUPTED = {"train": PARAMS["train"] | {"save_minutes": 0}}
"""Its state is saved after every step."""


def environment(**changes: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    return {**own, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", **changes}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A DVC repository with the shards and the stage train of the project's own dvc.yaml."""
    write_shards(tmp_path / "data" / "shards", train=80, val=4, scale=1)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    stage = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["train"]
    stage["deps"] = ["data/shards"]  # the code's files are not in this folder
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=tmp_path, env=environment(), check=True)
    return tmp_path


def epochs_of(workspace: Path) -> list[int]:
    run = json.loads((workspace / "data" / "model" / "run.json").read_text())
    return sorted(
        metric.step
        for metric in mlflow_client(f"sqlite:///{workspace}/mlflow.db").get_metric_history(run["run_id"], "val/miou")
    )


def newest_state(workspace: Path) -> int:
    """Number of the newest saved state, -1 without one. How many there are says less: a kill between the writing of a
    state and the removal of an old one leaves three, of which the next training keeps two.
    """
    names = (path.name for path in (workspace / "data").glob("checkpoints/*/*.ckpt"))
    return max((int(name.partition("-")[0]) for name in names), default=-1)


def test_killed_again_and_again_dvc_repro_ends_with_the_weights_of_an_uninterrupted_training(workspace: Path) -> None:
    """SIGKILL and SIGTERM in turn, each some way into the training; then one run to the end."""
    epochs = 20  # enough that none ends before its signal arrives, on a busy machine too
    (workspace / "params.yaml").write_text(yaml.safe_dump({"train": {**INTERRUPTED["train"], "epochs": epochs}}))
    subprocess.run(
        ["dvc", "repro", "-q"], cwd=workspace, env=environment(), check=True, capture_output=True, timeout=240
    )
    expected = load_file(workspace / "data" / "model" / "weights.safetensors")
    for leftover in ("data/checkpoints", "data/model", ".dvc/cache"):
        shutil.rmtree(workspace / leftover)
    (workspace / "dvc.lock").unlink()
    (workspace / "mlflow.db").unlink()

    rng = random.Random(0)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        saved = newest_state(workspace)
        process = subprocess.Popen(
            [sys.executable, "-m", "components", "train"],
            cwd=workspace,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:  # up to the first epoch of this process, and a little further
            if "epoch" in line:
                break
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        assert not (workspace / "data" / "model").exists()
        assert newest_state(workspace) >= max(0, saved)
    subprocess.run(
        ["dvc", "repro", "-q"], cwd=workspace, env=environment(), check=True, capture_output=True, timeout=240
    )
    resumed = load_file(workspace / "data" / "model" / "weights.safetensors")
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name
    assert epochs_of(workspace) == list(range(epochs))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "model": "unet_3_plus",
            "loss": {"cross_entropy": 1.0},  # the paper's losses take no soft labels
            "options": {"widths": [4, 8, 16]},
            "deep_supervision": {"weights": [0.5, 0], "decay": True},
            "self_correction": {"start_epoch": 2, "cycle_epochs": 2},
        },
        {
            "model": "wnet",
            "options": {"widths": [4, 8], "dropout": 0.0},
            "loss": {"soft_normalized_cut": {"sigma_intensity": 60.0}, "reconstruction": 1.0},
        },
    ],
    ids=["plain", "deep supervision and self-correction", "without labels"],
)
def test_two_processes_measure_what_one_does_with_the_same_global_batch(
    workspace: Path, changes: dict[str, Any]
) -> None:
    scores = []
    for processes in (1, 2):
        params = {
            "train": {
                **PARAMS["train"],
                "batch_size": 4 // processes,
                "augment": {**PARAMS["train"]["augment"], "brightness": 0.1},
                **changes,
            }
        }
        (workspace / "params.yaml").write_text(yaml.safe_dump(params))
        model = f"data/model-{processes}"
        command = [
            "torchrun",
            "--nproc-per-node",
            str(processes),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "127.0.0.1:0",
        ]
        subprocess.run(
            [*command, "-m", "components", "train", "--model", model],
            cwd=workspace,
            env=environment(),
            check=True,
            capture_output=True,
            timeout=240,
        )
        run = json.loads((workspace / model / "run.json").read_text())
        metrics = mlflow_client(f"sqlite:///{workspace}/mlflow.db").get_run(run["run_id"]).data.metrics
        scores.append([metrics[name] for name in ("val/miou", "val/fwiou", "val/loss", "train/loss")])
    # the order of sums differs; labels that a model makes for itself carry such differences into the next cycle
    assert scores[1] == pytest.approx(scores[0], rel=1e-2 if changes else 0, abs=1e-3)


def test_a_deleted_pods_training_resumes_in_the_next_pod_from_its_last_state(tmp_path: Path) -> None:
    """The step has a second at most, and nobody reads what it prints in that time."""
    write_shards(tmp_path / "shards", train=80, val=4, scale=1)
    step = [sys.executable, "-m", "components", "train", "--params-json", json.dumps(INTERRUPTED), "--shards", "shards"]
    tracking = environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db", PYTHONPATH=str(REPOSITORY))

    def pod(number: int, checkpoints: str) -> Pod:
        folders = ["--checkpoints", checkpoints, "--model", f"model-{number}"]
        return Pod([*step, *folders], tmp_path / f"log-{number}", cwd=tmp_path, env=tracking)

    assert pod(0, "alone").wait(300) == 0
    first = pod(1, "shared")
    while not list(tmp_path.glob("shared/*/*.ckpt")):
        assert first.launcher.poll() is None, (tmp_path / "log-1").read_text()
        time.sleep(0.05)
    first.delete()
    assert not (tmp_path / "model-1").exists(), "it was not at its end"
    assert pod(2, "shared").wait(300) == 0, (tmp_path / "log-2").read_text()
    weights = [load_file(tmp_path / model / "weights.safetensors") for model in ("model-0", "model-2")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

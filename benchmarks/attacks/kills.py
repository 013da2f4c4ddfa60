"""kill -9 of whatever runs, at any moment; and what DVC's own files look like afterwards."""

from __future__ import annotations

import hashlib
import random
import time
from functools import partial
from pathlib import Path

from benchmarks.attacks.ground import PYTHON, Ground, Trials, kill, run, start, until, wait

DVC = ["dvc", "repro"]


def repro(ground: Ground) -> Trials:
    """`dvc repro train` killed with all its processes, and run again: the weights of an undisturbed training."""
    expected = weights(ground.base)
    source = _project(ground)
    draw = random.Random(0)
    while True:
        workspace = ground.copy(of=source)
        process = start(workspace, *DVC, "train")
        delay = draw.uniform(1, 12)
        time.sleep(delay)
        kill(process)
        run(workspace, *PYTHON, "doctor", "--repair")  # as `make demo` does: DVC's own files may be cut
        outcome = run(workspace, *DVC, "train", seconds=120)
        fault = outcome.fault((0,)) or ("" if weights(workspace) == expected else "other weights")
        yield f"killed after {delay:.1f} s", fault


def first_training(ground: Ground) -> Trials:
    """A workspace's first training, killed around the making of its MLflow store, or begun by two at once."""
    draw = random.Random(1)
    while True:
        workspace = ground.copy("data/model", "data/checkpoints", "mlruns", "mlflow.db")
        process = start(workspace, *PYTHON, "train")
        until(partial(_has_store, workspace), 60)
        delay = draw.uniform(0, 4)
        time.sleep(delay)
        kill(process)
        yield f"killed {delay:.1f} s after the store began", run(workspace, *PYTHON, "train", seconds=90).fault((0,))

        workspace = ground.copy("data/model", "data/checkpoints", "mlruns", "mlflow.db")
        both = [
            start(workspace, *PYTHON, "train", "--checkpoints", f"data/state-{n}", "--model", f"data/model-{n}")
            for n in (1, 2)
        ]
        for number, process in enumerate(both, 1):
            yield f"two at once, number {number}", wait(process, 120).fault((0, 75))


def dvc_files(ground: Ground) -> Trials:
    """dvc.lock as a kill leaves it (DVC empties it before it writes): the doctor's repair, and all goes on."""
    source = _project(ground)
    for name, cut in {"empty": 0.0, "half": 0.5, "all but a byte": 0.999}.items():
        workspace = ground.copy(of=source)
        lock = workspace / "dvc.lock"
        text = lock.read_bytes()
        lock.write_bytes(text[: int(len(text) * cut)])
        repaired = run(workspace, *PYTHON, "doctor", "--repair")
        fault = repaired.fault((0,)) or run(workspace, *DVC, "preprocess", seconds=90).fault((0,))
        yield f"dvc.lock {name}", fault


def weights(workspace: Path) -> str:
    path = workspace / "data" / "model" / "weights.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no weights"


def _has_store(workspace: Path) -> bool:
    return any(workspace.glob("*mlflow.db*"))


def _project(ground: Ground) -> Path:
    """A DVC project with the shards, made once."""
    project = ground.folder / "project"
    if not project.exists():
        workspace = ground.copy("data", "mlruns", "mlflow.db")
        for command in (["dvc", "init", "--no-scm", "-q"], [*DVC, "preprocess"]):
            outcome = run(workspace, *command, seconds=120)
            if outcome.code != 0:
                raise RuntimeError(f"{command} fails without any attack: {outcome.text}")
        workspace.rename(project)
    return project

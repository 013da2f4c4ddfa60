"""The train step in a changed copy of the code: it resumes a checkpoint unless the change decides the weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_pipeline import SMALL_TRAINING, use_local_store, write_shards

from components.params.checking import checked
from components.params.schema import TrainParams
from components.steps.train import train
from segmodels.inference.bundle import load_bundle

REPOSITORY = Path(__file__).resolve().parents[3]

PARAMS = SMALL_TRAINING | {"epochs": 1}
PROGRAM = """
import json, sys
from pathlib import Path
import segmodels
from components.params.checking import checked
from components.params.schema import TrainParams
from components.steps.train import train
from segmodels.training.fit import Fit

batches, train_batch = [], Fit._train_batch
Fit._train_batch = lambda *args, **more: batches.append(1) or train_batch(*args, **more)
train(checked(TrainParams, json.loads(sys.argv[1])), Path("shards"), Path(sys.argv[2]), Path("checkpoints"))
print(segmodels.__file__, len(batches))
"""


def copy_of_code(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of the code with some (file, old, new)."""
    for name in ("segmodels", "components"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in changes:
        text = (folder / "segmodels" / name).read_text()
        assert text.count(old) == 1
        (folder / "segmodels" / name).write_text(text.replace(old, new))
    return folder


def train_in(copy: Path) -> int:
    """Batches that the copy trains on; its model is put beside its code."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(PARAMS), str(copy / "model")],
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    file, batches = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert file == str(copy / "segmodels" / "__init__.py")
    return int(batches)


def run_of(model: Path) -> str:
    return str(json.loads((model / "run.json").read_text())["run_id"])


def weights_are_equal(one: Path, other: Path) -> bool:
    first, second = (load_bundle(path).model.state_dict() for path in (one, other))
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_changes_that_leave_the_weights_alone_resume_and_a_line_of_the_optimiser_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    write_shards(tmp_path / "shards", train=8, val=2, scale=1)
    model, checkpoints = tmp_path / "model", tmp_path / "checkpoints"
    train(checked(TrainParams, PARAMS), tmp_path / "shards", model, checkpoints)
    (state,) = checkpoints.iterdir()
    words = copy_of_code(
        tmp_path / "words",
        ("plots.py", '"""Pictures of results:', '"""Figures of results:'),
        ("models/segnet.py", 'nonlinearity="relu"', 'nonlinearity="linear"'),
    )
    optimiser = copy_of_code(
        tmp_path / "optimiser",
        ("training/optimizers.py", '{"lr": factor * settings.lr}', '{"lr": 0.5 * factor * settings.lr}'),
    )

    assert train_in(words) == 0
    assert list(checkpoints.iterdir()) == [state]
    assert run_of(words / "model") == run_of(state) == run_of(model)
    assert weights_are_equal(words / "model", model)

    assert train_in(optimiser) == 2
    (other,) = set(checkpoints.iterdir()) - {state}
    assert run_of(optimiser / "model") == run_of(other) != run_of(state)
    assert not weights_are_equal(optimiser / "model", model)

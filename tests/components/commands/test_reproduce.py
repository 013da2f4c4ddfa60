"""reproduce: a registered version is made again, bit for bit."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from small_pipeline import SMALL_TRAINING, use_local_store, write_shards

from components.__main__ import main
from components.params.checking import checked
from components.params.schema import EvaluateParams, RegisterParams, TrainParams
from components.running.clean_clone import clean_clone
from components.steps.evaluate import evaluate
from components.steps.register import register
from components.steps.train import train
from components.tracking.client import mlflow_client
from components.tracking.reproduction import differing_params, recorded_params
from segmodels.errors import InputError

ROOT = Path(__file__).parents[3]
SMALL = SMALL_TRAINING | {"lr": 0.003}


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
    here = {"lr": 0.003, "options": {"widths": [4, 16]}, "task": None, "loss": {"focal": 1}, "model": "unet"}
    assert differing_params(params | facts, here) == {
        "options.widths": ("[4, 8]", "[4, 16]"),
        "loss.dice": ("1.0", "–"),
    }


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    done = subprocess.run(["git", *named, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    """All files of the folder, as a commit."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "all")
    return git(folder, "rev-parse", "HEAD")


def test_a_clone_has_the_files_of_its_commit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a project in a sub-folder of the repository; the commit may belong to no branch."""
    project = tmp_path / "repository" / "project"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc" / "config").touch()
    (project / "params.yaml").write_text("first")
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match=r"project is not in a Git repository"):
        clean_clone("a" * 40, tmp_path / "none")
    first = commit(project.parent)
    (project / "params.yaml").write_text("second")
    git(project, "commit", "-qa", "--amend", "-m", "all")
    (project / "params.yaml").write_text("not committed")
    for revision, content in {f"{first}-dirty": "first", git(project, "rev-parse", "HEAD"): "second"}.items():
        clone = clean_clone(revision, tmp_path / revision)
        assert (clone / "params.yaml").read_text() == content
    assert (project / "params.yaml").read_text() == "not committed"
    with pytest.raises(InputError, match=r"does not have commit b{40}: `git fetch` it"):
        clean_clone("b" * 40, tmp_path / "none")
    with pytest.raises(InputError, match="no commit was recorded"):
        clean_clone("unknown", tmp_path / "none")


@pytest.mark.slow
def test_a_registered_version_is_reproduced_bit_for_bit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code that is here, and by that of its commit."""
    for name in ("components", "segmodels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "components" / "__init__.py").open("a") as file:
        file.write("print('the code of the commit')\n")
    params = tmp_path / "params.yaml"
    params.write_text(json.dumps({"train": SMALL}))
    revision = commit(tmp_path)
    use_local_store(tmp_path, monkeypatch)
    shards = write_shards(tmp_path / "shards", train=12, val=4, scale=1)
    model, evaluation, registration = (tmp_path / name for name in ("model", "evaluation", "registration"))
    train(checked(TrainParams, SMALL), shards, model, tmp_path / "checkpoints")
    evaluate(EvaluateParams(overlays=0), shards, model, evaluation)
    register(RegisterParams(name="scenes"), shards, model, evaluation, registration)
    params.write_text("train: {lr: 0.5}\n")
    before = sorted(tmp_path.rglob("*"))

    def said(*arguments: str, shards: str = "shards", code: int = 0) -> str:
        assert main(["reproduce", "scenes/1", "--shards", shards, *arguments]) == code
        return "".join(capfd.readouterr())

    here = said("--retrain")
    assert "confusion      identical" in here
    assert "weights        identical, bit for bit" in here
    assert re.search(r"^params digest +\w+, here \w+$", here, re.M), "this workspace has others"
    assert re.search(r"^  lr +0\.003, here 0\.5$", here, re.M)
    assert re.search(rf"^code revision +{revision}, here {revision}-dirty$", here, re.M)
    assert "does not have all its parameters" not in here
    assert "the code of the commit" not in here

    cloned = said("--clone")
    assert "the code of the commit" in cloned
    assert "confusion      identical" in cloned
    assert ", here" not in cloned

    assert len(mlflow_client().search_runs(["1"])) == 1, "no run of the repetition"
    assert sorted(tmp_path.rglob("*")) == before, "and no file"
    write_shards(tmp_path / "other", scale=1, digest="f" * 32)
    assert "holds other data" in said(shards="other", code=2)

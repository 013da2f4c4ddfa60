"""`dvc repro` with the real dvc.yaml ingests again when the dataset changed and not otherwise; configurations side by
side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_dataset import write_small_dataset

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = "Stage 'ingest' didn't change, skipping"
RAN = "Running stage 'ingest'"


def run(*command: str, cwd: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_params(file: Path, **ingest: object) -> None:
    others = {"validate": {"workers": 1}, "preprocess": {"workers": 1, "longer_side": None}}
    file.write_text(yaml.safe_dump({"ingest": ingest} | others))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A DVC project with the code and dvc.yaml of this one, and a dataset in a folder."""
    write_small_dataset(tmp_path / "set", {"train": 4, "val": 2, "test": 2}, (24, 16))
    project = tmp_path / "my project"
    project.mkdir()
    for name in ("segmodels", "components", "dvc.yaml", "Makefile"):
        (project / name).symlink_to(ROOT / name)
    (project / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    write_params(project / "params.yaml", source="folder", path="../set")
    run("dvc", "init", "--no-scm", "-q", cwd=project)
    return project


@pytest.mark.slow
def test_a_changed_dataset_is_ingested_again_and_an_equal_one_is_not(project: Path) -> None:
    assert RAN in run("dvc", "repro", "ingest", cwd=project)
    for image in (project.parent / "set").rglob("*.png"):
        image.touch()
    assert SKIPPED in run("dvc", "repro", "ingest", cwd=project)
    image.write_bytes(image.read_bytes() + b"\0")
    assert RAN in run("dvc", "repro", "ingest", cwd=project)


@pytest.mark.slow
def test_the_built_in_digits_are_ingested_once(project: Path) -> None:
    digits = {"train": 3, "val": 1, "test": 1, "size": 32, "seed": 0}
    write_params(project / "params.yaml", source="digits", digits=digits)
    assert RAN in run("dvc", "repro", "ingest", cwd=project)
    assert SKIPPED in run("dvc", "repro", "ingest", cwd=project)


@pytest.mark.slow
def test_another_file_of_parameters_runs_in_a_folder_of_its_own(project: Path, tmp_path: Path) -> None:
    """And leaves params.yaml and its outputs alone; a step that both share is computed once."""
    environment = tmp_path / "venv"
    environment.mkdir()
    (environment / ".installed").touch()  # newer than what it is made from: nothing is installed
    for name in ("pyproject.toml", "requirements.lock"):
        (project / name).symlink_to(ROOT / name)
    for name, further in {"same": {}, "other": {"split": {"seed": 1}}}.items():
        write_params(project / f"params.{name}.yaml", source="folder", path="../set", **further)
    run("dvc", "repro", "ingest", cwd=project)
    before = {path: path.read_bytes() for path in (project / "params.yaml", *(project / "data" / "dataset").iterdir())}

    def make(name: str) -> str:
        arguments = (f"VENV={environment}", f"PARAMS=params.{name}.yaml", "STAGE=ingest")
        return run("make", "run", *arguments, cwd=project)

    assert "Stage 'ingest' is cached" in make("same")
    assert RAN in make("other")
    assert SKIPPED in make("other")
    assert (project / "configurations" / "other" / "data" / "dataset" / "manifest.parquet").is_file()
    assert SKIPPED in run("dvc", "repro", "ingest", cwd=project)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_an_experiment_in_a_copy_of_the_project_and_a_clone_without_the_cache_preprocess(project: Path) -> None:
    """DVC restores the manifest there, but not the files that it names: an untracked folder, generated digits."""
    digits = {"train": 3, "val": 1, "test": 1, "size": 32, "seed": 0}
    run("git", "init", "-q", cwd=project)
    run("git", "config", "user.email", "a@b.example", cwd=project)
    run("git", "config", "user.name", "a", cwd=project)
    run("dvc", "init", "-q", "-f", cwd=project)
    (project / ".gitignore").write_text("/data/\n")
    for ingest in ({"source": "digits", "digits": digits}, {"source": "folder", "path": "../set"}):
        write_params(project / "params.yaml", **ingest)
        run("dvc", "repro", "validate", cwd=project)
        run("git", "add", "-A", cwd=project)
        run("git", "commit", "-qm", "a run", cwd=project)
        shutil.rmtree(project / "data" / "cache")
        done = run("dvc", "exp", "run", "--temp", "-S", "preprocess.longer_side=24", "preprocess", cwd=project)
        assert SKIPPED in done
        assert "Running stage 'preprocess'" in done

"""The doctor removes what a killed DVC or Git left behind, and nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.commands.doctor import doctor, is_whole
from segmodels.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]

FILE = {"path": "data/source.json", "hash": "md5", "md5": "b71647af253892fd37afd607084c6431", "size": 96}
FOLDER = FILE | {"path": "data/dataset", "md5": "0e8d650c0bf69656a4b0a3fe7701d0d3.dir", "nfiles": 8}
STAGES = {
    "source": {"cmd": "python -m components source", "outs": [FILE]},
    "ingest": {
        "cmd": "python -m components ingest",
        "deps": [FILE],
        "params": {"params.yaml": {"ingest": {"source": "digits", "path": None}}},
        "outs": [FOLDER],
    },
}
WHOLE = yaml.safe_dump({"schema": "2.0", "stages": STAGES}, sort_keys=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is a project of DVC and Git with a sound dvc.lock."""
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / ".dvc" / "tmp" / "lock").touch()
    (tmp_path / ".dvc" / "tmp" / "rwlock").write_text("{}")
    (tmp_path / ".git" / "objects" / "ab").mkdir(parents=True)
    (tmp_path / ".git" / "refs" / "exps").mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text(WHOLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_project_is_left_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    doctor(repair=True)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out == ""


def test_sections_that_dvc_asks_for_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "dvc.yaml").symlink_to(REPOSITORY / "dvc.yaml")
    (project / "params.yaml").write_text("ingest: {source: digits}\ntrain: {}\nevaluate: {}\nregister: {}\n")
    for last in (None, "train", "no stage"):
        with pytest.raises(InputError, match=r"params\.yaml lacks .* add the lines `validate: {}`, `preprocess: {}`$"):
            doctor(repair=True, stage=last)
    with pytest.raises(InputError, match=r"add the lines `validate: {}`$"):
        doctor(repair=True, stage="validate")
    doctor(repair=True, stage="ingest")
    for path in (REPOSITORY / "params.yaml", *(REPOSITORY / "params").glob("*.yaml")):
        (project / "params.yaml").unlink()
        (project / "params.yaml").symlink_to(path)
        doctor(repair=True)
    assert capsys.readouterr().out == ""


def test_wherever_dvc_lock_was_cut_dvc_and_the_doctor_agree() -> None:
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml
    from voluptuous import Invalid

    def accepted(text: str) -> bool:
        try:
            COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, "dvc.lock"))
        except (DvcException, Invalid):
            return False
        return True

    cuts = range(0, len(WHOLE) + 1, 3)
    assert [is_whole(WHOLE[:cut]) for cut in cuts] == [accepted(WHOLE[:cut]) for cut in cuts]
    assert is_whole(WHOLE)
    assert is_whole(WHOLE.replace("hash: md5", "hash: other"))  # unusual, as another version of DVC may write it


def test_what_a_killed_process_left_is_removed_and_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "dvc.lock").write_text(WHOLE[:200])
    (project / ".dvc" / "tmp" / "rwlock").write_text("")
    left = [".git/index.lock", ".git/objects/ab/cdef.lock", ".git/refs/exps/stash.lock"]
    for name in left:
        (project / name).touch()
    doctor(repair=True)
    removed = ["dvc.lock", ".dvc/tmp/rwlock", *left]
    assert not any((project / name).exists() for name in removed)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(",") for line in lines] == removed
    assert "run cache" in lines[0]


def test_a_configuration_whose_parameters_are_gone_stops_no_other(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, params in (("kept", "params.yaml"), ("lost", "moved.yaml")):
        folder = project / "configurations" / name
        folder.mkdir(parents=True)
        (folder / "dvc.yaml").symlink_to(REPOSITORY / "dvc.yaml")
        (folder / "params.yaml").symlink_to(project / params)
    (project / "params.yaml").write_text("{}\n")
    doctor(repair=True)
    assert [path.parent.name for path in project.glob("configurations/*/dvc.yaml")] == ["kept"]
    assert f"{project / 'moved.yaml'} is gone" in capsys.readouterr().out


def test_nothing_is_touched_while_dvc_or_git_is_at_work(project: Path) -> None:
    lock = project / ".git" / "index.lock"
    lock.touch()
    (project / "dvc.lock").write_text("")
    with (project / ".dvc" / "tmp" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        doctor(repair=True)
    assert lock.exists()
    assert (project / "dvc.lock").exists()
    (project / "git").symlink_to(sys.executable)
    with subprocess.Popen([project / "git", "-c", "input()"], stdin=subprocess.PIPE) as process:
        doctor(repair=True)
        process.communicate(b"\n")
    assert lock.exists()
    assert not (project / "dvc.lock").exists()
    doctor(repair=True)
    assert not lock.exists()


def test_a_merge_conflict_stays(project: Path) -> None:
    (project / "dvc.lock").write_text(f"<<<<<<< HEAD\n{WHOLE}=======\n>>>>>>> other\n")
    doctor(repair=True)
    assert (project / "dvc.lock").exists()


def test_it_costs_no_time(project: Path) -> None:
    """Neither DVC nor torch is imported: a second `make demo` takes no longer."""
    code = "import sys; from components.__main__ import main; main(['doctor', '--repair']); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    assert not {"dvc", "torch", "numpy", "pyarrow", "mlflow"} & set(done.stdout.split())

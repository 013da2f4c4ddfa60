"""The Makefile's own work, in a folder whose path holds blanks."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
echo "$*" >> calls
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""
"""Stands for Python: writes down what it is called with."""


def test_an_environment_is_made_within_a_folder_whose_path_holds_blanks(tmp_path: Path) -> None:
    project, python = tmp_path / "sp ace" / "my project", tmp_path / "python"
    project.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, project)
    (project / "segmodels").mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    before = {path.name for path in project.iterdir()}
    subprocess.run(["make", "--silent", ".venv/.installed", f"PYTHON={python}"], cwd=project, check=True)
    assert {path.name for path in project.iterdir()} - before == {".venv", "calls"}
    assert {path.name for path in tmp_path.iterdir()} == {"sp ace", "python"}
    assert (project / "calls").read_text().splitlines()[-1].endswith("--no-deps -e .")
    assert (project / ".venv" / ".installed").exists()


def project_of_tools(folder: Path) -> None:
    """A Makefile whose tools write down what they are called with."""
    shutil.copy(ROOT / "Makefile", folder)
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "dvc"):
        (tools / name).write_text(PYTHON)
        (tools / name).chmod(0o755)
    for name in ("segmodels", "pyproject.toml", "requirements.lock", ".venv/.installed"):
        (folder / name).touch()


def test_a_file_of_parameters_has_blanks_in_its_name(tmp_path: Path) -> None:
    project_of_tools(tmp_path)
    (tmp_path / "a folder").mkdir()
    files = {"my params.yaml": "my params", "a folder/params.b c.yaml": "b c", "a folder/x.yaml": "x"}
    for name, configuration in files.items():
        file = tmp_path / name
        file.touch()
        for named in (file, name):
            subprocess.run(["make", "--silent", "run", f"PARAMS={named}", "STAGE=source"], cwd=tmp_path, check=True)
            assert (tmp_path / "configurations" / configuration / "params.yaml").readlink() == file
    assert len(list((tmp_path / "configurations").iterdir())) == len(files)


def test_folders_of_wheels_are_there(tmp_path: Path) -> None:
    project_of_tools(tmp_path)
    lock = ["make", "--silent", "lock"]
    done = subprocess.run([*lock, "WHEELS=absent"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "WHEELS names absent, which is no folder: expected one with wheels of torch\n"
    subprocess.run(lock, cwd=tmp_path, check=True)
    assert (tmp_path / "calls").read_text().endswith("infra/lock.py wheelhouse\n")


def test_another_folder_keeps_its_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = subprocess.run(["make", "-f", ROOT / "Makefile", "clean"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "start make in the folder of the project" in done.stderr
    assert (tmp_path / "data").is_dir()

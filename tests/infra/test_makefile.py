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
    python.write_text(PYTHON)
    python.chmod(0o755)
    before = {path.name for path in project.iterdir()}
    subprocess.run(["make", "--silent", ".venv/.installed", f"PYTHON={python}"], cwd=project, check=True)
    assert {path.name for path in project.iterdir()} - before == {".venv", "calls"}
    assert {path.name for path in tmp_path.iterdir()} == {"sp ace", "python"}
    assert (project / "calls").read_text().splitlines()[-1].endswith("--no-deps -e .")
    assert (project / ".venv" / ".installed").exists()

"""``dvc repro`` runs a stage again when code changed that its result depends on: the deps of dvc.yaml against what the
steps import.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from components import steps

ROOT = Path(__file__).parents[2]
STEPS = [step.name for step in steps.STEPS]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# How a step runs, where its files are kept, what its parameters are (their values stand under ``params``).
ELSEWHERE = (
    *("components/params/", "components/running/", "components/storage/", "components/train_job/"),
    *("components/artifacts.py", "components/environment.py", "components/steps/__init__.py"),
    *(
        "segmodels/addresses.py",
        "segmodels/checks.py",
        "segmodels/errors.py",
        "segmodels/files.py",
        "segmodels/machine.py",
        "segmodels/registry.py",
        "segmodels/suggest.py",
    ),
)


def files(module: str) -> set[Path]:
    place = ROOT / module.replace(".", "/")
    return {path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()}


def imported(path: Path) -> set[Path]:
    """Files of this project that a file imports when it runs, in functions too."""
    found: set[Path] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {file for alias in node.names for file in files(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= files(node.module) | {
                file for alias in node.names for file in files(f"{node.module}.{alias.name}")
            }
        pending += ast.iter_child_nodes(node)
    return found


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def all_imported(path: Path) -> set[str]:
    seen: set[Path] = set()
    pending = [path]
    while pending:
        file = pending.pop()
        if file not in seen:
            seen.add(file)
            pending += [one for one in imported(file) if not name(one).startswith(ELSEWHERE)]
    return {name(file) for file in seen}


@pytest.mark.parametrize("stage", STEPS)
def test_a_stage_depends_on_the_code_that_makes_its_result(stage: str) -> None:
    deps = [dep for dep in STAGES[stage]["deps"] if dep.partition("/")[0] in ("components", "segmodels")]
    assert all((ROOT / dep).exists() for dep in deps)
    needed = all_imported(ROOT / "components" / "steps" / f"{stage}.py")
    assert {file for file in needed if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)} == set()

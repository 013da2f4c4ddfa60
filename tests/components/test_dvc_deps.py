"""``dvc repro`` runs a stage again when code changed that its result depends on: the deps of dvc.yaml against what the
steps import.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# What changes how a step runs, speaks or is kept, and not what it puts out. The values of parameters stand under
# ``params``.
ELSEWHERE = {
    *(
        "segmodels/checks.py",
        "components/running/atomic.py",
        "components/running/progress_bar.py",
        "components/running/wording.py",
        "components/running/parallel.py",
    ),
    *(
        "components/tracking/runs.py",
        "components/running/training_display.py",
        "components/commands/report.py",
        "segmodels/errors.py",
    ),
    # training on several machines, and checkpoints kept in a store
    *(
        "components/storage/checkpoints.py",
        "components/storage/folders.py",
        "components/train_job/launch.py",
        "components/train_job/follow.py",
    ),
    *("components/datasets/download_cache.py", "components/storage/s3.py", "components/running/digests.py"),
    # read by what evaluate imports, for predict
    *(
        "segmodels/data/augment.py",
        "segmodels/data/large_images.py",
        "segmodels/data/decoding.py",
        "segmodels/data/statistics.py",
    ),
    # types, and the presence of an option
    *(
        "segmodels/data/layouts/base.py",
        "segmodels/registry.py",
        "segmodels/losses/registry.py",
        "segmodels/plots.py",
        "segmodels/data/digits.py",
    ),
}


PARAMS = ROOT / "components" / "params"  # reads what stands under ``params``


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


def all_imported(path: Path) -> set[str]:
    seen: set[Path] = set()
    pending = [path]
    while pending:
        file = pending.pop()
        if file not in seen:
            seen.add(file)
            pending += [one for one in imported(file) if PARAMS not in one.parents]
    return {file.relative_to(ROOT).as_posix() for file in seen if file.name != "__init__.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_makes_its_result(stage: str) -> None:
    deps = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("components/", "segmodels/"))]
    assert all((ROOT / dep).exists() for dep in deps)
    needed = all_imported(ROOT / "components" / "steps" / f"{stage}.py") - ELSEWHERE
    assert {file for file in needed if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)} == set()

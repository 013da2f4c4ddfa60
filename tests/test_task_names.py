"""No room asks which task it works for: names of tasks and scores stand in tasks/, metrics/ and on model cards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segmodels.annotations import Annotation
from segmodels.labels import LabelMap
from segmodels.tasks.base import Task
from segmodels.tasks.registry import TASKS, create_task

REPOSITORY = Path(__file__).parent.parent
OWN = {"segmodels/tasks", "segmodels/metrics"}
COMMON = {"images", "pixels", "objects", "segments"}  # counts that stand beside the scores, and words of any room
LABELS = LabelMap(("ground", "cat"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1}, things=frozenset({1}))


def names() -> set[str]:
    """Of all tasks, and of all their scores, in files and in runs."""
    found: set[str] = set()
    for name in TASKS.names():
        task = create_task(name, LABELS)
        evaluator = task.evaluator()
        annotation = Annotation.of_classes(np.zeros((4, 4), np.uint8))
        evaluator.update([task.truth(annotation)], [annotation], ["a"])
        found |= {name, *task.headline, *task.short.values(), *evaluator.scores()}
    return found - COMMON


def constants(path: Path) -> Iterator[tuple[str, int]]:
    """Strings of a module and their lines, compared with something or not, without those on model cards."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    cards = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Card")
        or (isinstance(node, ast.ClassDef) and node.name == "Card")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in cards:
            yield node.value, node.lineno


def modules() -> list[Path]:
    files = [
        path for package in ("segmodels", "components", "pipelines") for path in (REPOSITORY / package).rglob("*.py")
    ]
    return [path for path in files if not any(path.is_relative_to(REPOSITORY / own) for own in OWN)]


def test_tasks_and_scores_are_known() -> None:
    assert {"semantic", "instance", "panoptic", "promptable"} <= names()
    assert {"mean_iou", "miou", "pq", "mask_ap50", "object_iou"} <= names()
    assert all(issubclass(TASKS[name].build, Task) for name in TASKS.names())  # type: ignore[arg-type]


def test_no_string_names_a_task_or_a_score() -> None:
    known = names()
    found = [
        f"{path.relative_to(REPOSITORY)}:{line} {value!r}"
        for path in modules()
        for value, line in constants(path)
        if value in known
    ]
    assert not found, "\n".join(found)

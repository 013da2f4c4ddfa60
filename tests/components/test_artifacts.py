"""Files between the steps, and environment variables: each has its name in one place."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from components import artifacts
from components.environment import Environment, environment
from components.params.schema import IngestParams, ValidateParams
from components.steps import PART_STEPS, STEPS
from components.steps.ingest import ingest
from components.steps.validate import validate
from segmodels.data.digits import DigitsSettings
from segmodels.errors import InputError

ROOT = Path(__file__).parents[2]
PACKAGES = ("components", "pipelines")
FILE_NAME = re.compile(r"[\w./-]*\w\.(json|jsonl|csv|parquet|md|png|html|safetensors|pt2|yaml|yml|txt|arrow|db|log)")


def literals(path: Path) -> list[tuple[str, int]]:
    """String constants with their lines, docstrings left out, parts of f-strings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.value, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements
    ]


def places(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """Matching literal -> where it stands."""
    found = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for text, line in literals(path):
                if pattern.fullmatch(text):
                    found[text].append(f"{path.relative_to(ROOT)}:{line}")
    return found


def test_no_file_name_is_a_literal_in_two_places() -> None:
    assert {name: where for name, where in places(FILE_NAME).items() if len(where) > 1} == {}


def test_the_environment_variables_are_named_in_one_module() -> None:
    assert places(re.compile(r"SEGMODELS_[A-Z_]+")) == {}


def test_the_environment_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMODELS_CHECKPOINTS", raising=False)
    assert environment().checkpoints == ""
    monkeypatch.setenv("SEGMODELS_CHECKPOINTS", "s3://bucket/states")
    assert environment().checkpoints == "s3://bucket/states"
    assert Environment(checkpoints="a", pipeline_ui="b").variables() == {
        "SEGMODELS_CHECKPOINTS": "a",
        "SEGMODELS_PIPELINE_UI": "b",
    }


def test_a_file_knows_a_step_that_there_is() -> None:
    steps = {step.name for step in (*STEPS, *PART_STEPS)}
    assert {one.step for one in vars(artifacts).values() if isinstance(one, artifacts.File)} <= steps


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_a_step_replaces_its_own_output_alone(step: str, tmp_path: Path) -> None:
    output = tmp_path / "data"
    artifacts.check_replaceable(step, output)
    output.mkdir()
    artifacts.check_replaceable(step, output)
    (output / "images").mkdir()
    with pytest.raises(InputError, match=rf"is where step {step} writes, and what it holds \(images\) would be del"):
        artifacts.check_replaceable(step, output)
    artifacts.MARKS[step].path(output).touch()
    artifacts.check_replaceable(step, output)


def test_a_step_that_is_called_as_a_function_deletes_no_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    kept = tmp_path / "mine" / "notes.txt"
    kept.touch()
    params = IngestParams(digits=DigitsSettings(train=4, val=2, test=2, size=32))
    with pytest.raises(InputError, match=r"is where step ingest writes, and what it holds \(notes\.txt\) would be del"):
        ingest(params, tmp_path / "mine", tmp_path / "cache")
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    with pytest.raises(InputError, match="is where step validate writes"):
        validate(ValidateParams(), tmp_path / "dataset", tmp_path / "mine")
    assert kept.exists()

"""Exit codes and sentences of ``python -m components``."""

import errno
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from components.__main__ import ALL, described_arguments, main
from components.running.exit_codes import guarded
from components.steps import Step
from segmodels.errors import InputError, TransientError


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "components", *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_lists_every_step_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys, components.__main__ as command_line
try:
    command_line.main(["--help"])
except SystemExit:
    pass
print(sorted({"torch", "mlflow", "pydantic", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    for step in ALL.values():
        assert f"  {step.name:<11} {step.help}" in done.stdout


@pytest.mark.parametrize("step", ALL.values(), ids=ALL)
def test_every_option_is_explained_by_the_docstring_of_its_function(step: Step) -> None:
    function = getattr(importlib.import_module(step.module), step.name)
    options = set(inspect.signature(function).parameters) - {"params"}
    texts = described_arguments(function)
    assert options <= set(texts)
    assert all(len(texts[option]) > 10 for option in options)
    assert {*step.reads, *step.keeps} | ({step.writes} if step.writes else set()) <= options


def test_help_of_a_step_shows_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["preprocess", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--dataset DATASET folder that ingest wrote (default: data/dataset)" in said


def test_arguments_are_read_over_lines_and_by_names_together() -> None:
    def step(first: int, second: int, third: int) -> None:
        """Do it.

        Args:
            first, second: one of two,
                over two lines.
            third: ``quoted``: with a colon.

        Returns:
            nothing: at all.
        """

    both = "one of two, over two lines"
    assert described_arguments(step) == {"first": both, "second": both, "third": "quoted: with a colon"}


def test_wrong_parameters_end_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {epochs: many}\n")
    done = run("train", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "train.epochs is 'many'" in done.stderr


def test_missing_input_ends_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    done = run("train", cwd=tmp_path)
    assert done.returncode == 2
    assert "preprocess" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("mask a.png is broken"), 2, "mask a.png is broken"),
        (TransientError("the object store does not answer"), 75, "try again"),
        (OSError(errno.ENOSPC, "No space left on device", "data/shards"), 2, "the disk is full"),
    ],
)
def test_errors_that_a_user_can_act_on_have_exit_codes(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert guarded(work) == code
    assert said in capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    def work() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        guarded(work)

"""Exit codes and sentences of ``python -m components``."""

import errno
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.__main__ import ALL, described_arguments, main
from components.running.atomic import written_file, written_folder
from components.running.exit_codes import guarded
from components.running.machine import check_temporary_space
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
        assert f"  {step.name:<16} {step.help}" in done.stdout


@pytest.mark.parametrize("step", ALL.values(), ids=ALL)
def test_every_option_is_explained_by_the_docstring_of_its_function(step: Step) -> None:
    function = getattr(importlib.import_module(step.module), step.function)
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
        (TransientError("s3://b/k?X-Amz-Signature=SECRET at http://me:SECRET@h"), 75, "s3://b/k at http://h (this"),
        (InputError("class 'x" + "x" * 10**6 + "' is unknown: remove it"), 2, "x … x"),
    ],
)
def test_errors_that_a_user_can_act_on_have_exit_codes(
    error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert guarded(work) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed) < 5000
    assert "SECRET" not in printed


def test_a_bug_keeps_its_traceback_and_says_what_to_send(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        try:
            Path("/nowhere").read_bytes()
        except FileNotFoundError:
            raise KeyError("bug")  # noqa: B904  # a bug while a refusal is handled is still a bug

    assert guarded(work) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "KeyError: 'bug'" in said
    assert "open an issue with the lines above, the command and params.yaml" in said.splitlines()[-1]


class LibraryError(Exception):
    """As MLflow, SQLite, Arrow and torch raise, with the system's error behind it."""


def behind(cause: Exception) -> Exception:
    error = LibraryError("it failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotADirectoryError(errno.ENOTDIR, "", "afile/x"), "afile/x cannot be used (not a directory): a file has"),
        (FileExistsError(errno.EEXIST, "", "afile"), "afile cannot be used (file exists): move it away"),
        (PermissionError(errno.EACCES, "", "/x"), "/x cannot be used (permission denied): change its permissions"),
        (OSError(errno.EROFS, "", b"/x"), "/x cannot be used (read-only file system): give a path"),
        (OSError(errno.ENAMETOOLONG, "", "x" * 300), "(file name too long): give a shorter path"),
        (OSError(errno.EMFILE, ""), "the operating system refuses (too many open files): raise the limit"),
        (OSError(errno.EDQUOT, "", "x"), "x cannot be used (disk quota exceeded): free some space"),
        (behind(OSError(errno.ENOSPC, "", "mlruns/a")), "the disk is full (mlruns/a): free some space"),
        (LibraryError("(sqlite3.OperationalError) database or disk is full"), "the disk is full: free some space"),
        (LibraryError("IoError(Os { code: 28, message: No space left on device })"), "the disk is full"),
        (LibraryError("attempt to write a readonly database"), "read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "set TMPDIR to a folder"),
        (MemoryError(), "memory ran out (MemoryError): lower batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "memory ran out"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert guarded(work) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("step", ["preprocess", "train", "predict"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "afile").write_text("mine")
    option = {"preprocess": "--shards", "train": "--model", "predict": "--out"}[step]
    more = ["--model", "m", "--images", "i"] if step == "predict" else []
    assert main([step, *more, option, "afile/below"]) == 2
    assert capsys.readouterr().err.startswith("error: afile/below cannot be used (not a directory)")
    assert main([step, *more, option, "afile"]) == 2
    assert capsys.readouterr().err.startswith("error: afile cannot be used (not a directory)")
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_user_without_a_home_gets_one(tmp_path: Path) -> None:
    code = """
import os, pwd, tempfile
from components.running.machine import set_home
def unknown(number): raise KeyError(number)
pwd.getpwuid = unknown
for name in ("HOME", "USER"): os.environ.pop(name, None)
set_home(); print(os.environ["HOME"], os.environ["USER"], oct(os.stat(os.environ["HOME"]).st_mode & 0o777))
set_home()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.stdout.split() == [f"{tmp_path}/segmodels-{os.getuid()}", str(os.getuid()), "0o700"], done.stderr


def test_too_little_room_for_temporary_files_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check_temporary_space(1000, "registering the model")
    with pytest.raises(
        InputError, match=r"MB free, registering the model needs 1000000000000 MB there: free space or set"
    ):
        check_temporary_space(10**18, "registering the model")


def test_a_file_takes_its_name_when_it_is_whole_and_leaves_nothing_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with written_file(tmp_path / "new" / "a.png") as partial:
        partial.write_text("first")
        assert not (tmp_path / "new" / "a.png").exists()

    def fill_the_disk() -> None:
        with written_folder(tmp_path / "folder"), written_file(tmp_path / "new" / "a.png") as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    assert guarded(fill_the_disk) == 2
    assert f"the disk is full ({tmp_path}/new/a.png): free" in capsys.readouterr().err
    assert not list(tmp_path.glob("*folder*"))
    assert [path.read_text() for path in (tmp_path / "new").iterdir()] == ["first"]
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(NotADirectoryError), written_folder(tmp_path / "afile"):
        pytest.fail("nothing is begun")
    assert (tmp_path / "afile").read_text() == "mine"

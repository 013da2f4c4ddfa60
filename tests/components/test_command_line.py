"""Exit codes and sentences of ``python -m components``."""

import errno
import importlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import pytest
from small_dataset import write_small_dataset

from components.__main__ import ALL, described_arguments, main
from components.running.atomic import written_file, written_folder
from components.steps import Step
from segmodels.errors import InputError
from segmodels.exit_codes import guarded
from segmodels.machine import check_file, check_folder


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


@pytest.mark.parametrize("step", ["ingest", "changed", "train"])
def test_the_first_steps_refuse_a_name_that_only_a_later_one_needs(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {model: unett}\n")
    folders = ("--revision", "r", "--decision", "d", "--init", "i") if step == "changed" else ()
    assert main([step, *folders]) == 2
    said = capsys.readouterr().err
    assert said == "error: params.yaml, section train: unknown model 'unett': did you mean 'unet'?\n"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_ingest_refuses_a_dataset_without_the_annotations_that_the_model_learns_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_small_dataset(tmp_path / "set")

    def ingest(model: str) -> int:
        Path("params.yaml").write_text(f"ingest: {{source: folder, path: set}}\ntrain: {{model: {model}}}\n")
        return main(["ingest"])

    assert [ingest("mask_rcnn_r50_fpn"), ingest("unet")] == [2, 0]
    assert capsys.readouterr().err == (
        "error: the dataset has no annotations for instance, which model 'mask_rcnn_r50_fpn' learns: add them, or"
        " choose another train.task or train.model\n"
    )
    shutil.rmtree("set/masks")
    assert [ingest("unet"), ingest("wnet")] == [2, 0]
    assert "but model 'unet' learns from labels: add masks" in capsys.readouterr().err


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


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "components", "validate"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python runs without docstrings (-OO or PYTHONOPTIMIZE=2)")


def test_missing_input_ends_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    done = run("train", cwd=tmp_path)
    assert done.returncode == 2
    assert "preprocess" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["", " "])
@pytest.mark.parametrize("option", ["--model", "--shards", "--params"])
def test_an_empty_path_is_not_the_folder_of_the_process(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", option, text])
    assert caught.value.code == 2
    assert f"argument {option}: expected a file or folder, got {text!r}" in capsys.readouterr().err


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "train" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--html"],
        ["drift", "--model", "m", "--log", "l", "--html"],
        ["drift", "--model", "m", "--log", "l", "--drifted"],
        ["source", "--start"],
        ["changed", "--digest", "d", "--decision", "e", "--init", "i", "--anew", "a", "--revision"],
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "folder").mkdir()
    for place, why in {"afile/page": "not a directory", "folder": "is a directory"}.items():
        assert main([*command, place]) == 2
        assert capsys.readouterr().err.startswith(f"error: {place} cannot be used ({why})")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afile", "folder", "params.yaml"]


def test_only_a_folder_that_is_replaced_needs_a_parent_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a volume of a container that a user other than root runs; root, who runs tests, may write anywhere."""
    own = tmp_path / "own"
    own.mkdir()

    def refuse(dir: Path) -> object:
        if dir != allowed:
            raise PermissionError(errno.EACCES, "no", str(dir))
        return BytesIO()

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    allowed = own
    check_folder(own)
    with pytest.raises(InputError, match=r"own cannot be used \(permission denied\)"):
        check_folder(own, replaced=True)
    allowed = tmp_path
    check_folder(tmp_path / "new" / "below", replaced=True)
    with pytest.raises(InputError, match="own cannot be used"):
        check_folder(own, replaced=True)
    allowed = Path("/")
    with pytest.raises(InputError, match=r"busy\): give a folder below that mount point"):
        check_folder(Path("/"), replaced=True)


def test_a_folder_takes_the_place_of_an_earlier_one_also_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "disk" / "model" / "old").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    with written_folder(tmp_path / "link") as folder:
        (folder / "new").write_text("")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "link", "model", "new"]
    assert (tmp_path / "link" / "new").is_file()


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
    copied = OSError(errno.ENOSPC, "full", "source.png", None, "partial.png")  # as shutil.copyfile raises it
    with pytest.raises(OSError, match="full"), written_file(tmp_path / "new" / "a.png"):
        raise copied
    assert copied.filename == str(tmp_path / "new" / "a.png")
    assert not list(tmp_path.glob("*folder*"))
    assert [path.read_text() for path in (tmp_path / "new").iterdir()] == ["first"]
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with written_file(tmp_path / "pipe") as device:
        device.write_text("page")
    assert os.read(descriptor, 10) == b"page"
    os.close(descriptor)
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(NotADirectoryError), written_folder(tmp_path / "afile"):
        pytest.fail("nothing is begun")
    assert (tmp_path / "afile").read_text() == "mine"

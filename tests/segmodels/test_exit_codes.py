"""Every command line ends with a code and, for errors that a user can act on, one sentence."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segmodels.errors import InputError, TransientError
from segmodels.exit_codes import guarded
from segmodels.machine import check_temporary_space


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
        (LibraryError("IoError(Os { code: 27, message: File too large })"), "(file too large): raise the limit"),
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


COMMANDS = {
    "help": ["-m", "components", "train", "--help"],
    "another help": ["-m", "pipelines", "--help"],
    "a table by rich": ["-m", "segmodels", "metrics"],
    "a long text": ["-c", "import sys, segmodels.exit_codes as e; sys.exit(e.guarded(lambda: print('x' * 100_000)))"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("both", [False, True])
def test_output_that_nobody_reads_is_no_error(tmp_path: Path, command: list[str], both: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if both else subprocess.PIPE
    done = subprocess.run([sys.executable, *command], stdout=writer, stderr=errors, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) in {(0, b""), (141, b""), (141, None), (0, None)}


def test_output_that_the_disk_refuses_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "segmodels", "metrics"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"error: the disk is full")


def test_a_pipe_that_breaks_elsewhere_is_a_bug_and_not_silent(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert guarded(work) == 1
    assert "BrokenPipeError" in capsys.readouterr().err


def test_the_end_of_a_process_does_not_look_for_cycles_in_all_that_is_loaded() -> None:
    code = """
import atexit, gc
from segmodels.exit_codes import guarded
atexit.register(lambda: print(gc.get_freeze_count() > 1000, gc.get_threshold()))  # runs last
guarded(lambda: None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True (10000, 10, 10)\n"


def test_a_user_without_a_home_gets_one(tmp_path: Path) -> None:
    code = """
import os, pwd, tempfile
from segmodels.machine import set_home
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

"""Signals to a training, and the lock of its folder, in processes of their own."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.running.folder_lock import locked_folder
from segmodels.errors import TransientError


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)


BEFORE = """
import logging, signal
from components.running.stop_signal import StopSignal

with StopSignal() as stop:
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        print("still here")
"""

IN_THE_LOOP = """
import signal
from components.running.stop_signal import StopSignal

with StopSignal() as stop:
    stop.defer()
    assert not stop()
    signal.raise_signal(signal.{name})
    assert stop()
    print("asked", flush=True)
    try:
        signal.raise_signal(signal.{name})
    finally:
        print("still here")
"""


def test_before_the_loop_sigterm_ends_the_process_at_once() -> None:
    done = run(BEFORE)
    assert done.returncode == 143
    assert done.stdout == ""
    assert "nothing to save" in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_in_the_loop_a_signal_is_a_question_and_a_second_one_the_end(name: str) -> None:
    done = run(IN_THE_LOOP.format(name=name))
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stdout == "asked\n"
    assert "resumes from the state before" in done.stderr


def test_a_folder_has_one_holder_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    code = """
import sys, pathlib
from components.running.folder_lock import locked_folder
with locked_folder(pathlib.Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.read()
"""
    folder = tmp_path / "key"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TransientError, match=f"already running .process {holder.pid} on .* since 20"):
            locked_folder(folder, "training").__enter__()
        holder.kill()
    for _ in range(2):  # also when the holder before ended as it should
        with locked_folder(folder, "training"):
            assert '"since"' in (folder / ".lock").read_text()


def test_a_file_system_without_locks_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("components.running.folder_lock.fcntl.flock", flock)
    with locked_folder(tmp_path / "key", "training"):
        assert (tmp_path / "key" / ".lock").exists()

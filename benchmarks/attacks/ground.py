"""Where attacks happen: a tiny workspace that has gone through all steps, its copies, and commands run in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.attacks.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-m", "components"]
STEPS = {
    "ingest": "dataset",
    "validate": "validation",
    "preprocess": "shards",
    "train": "model",
    "evaluate": "evaluation",
    "register": "registration",
}
"""Step -> the folder below data/ that it writes."""

PARAMS: dict[str, Any] = {
    "ingest": {"source": "digits", "digits": {"train": 60, "val": 16, "test": 16, "size": 32, "seed": 0}},
    "validate": {"max_void_share": 0.9},
    "preprocess": {"longer_side": None},
    "train": {
        "options": {"widths": [4, 8]},
        "epochs": 3,
        "batch_size": 16,
        "accelerator": "cpu",
        "precision": "float32",
        "experiment": "attacks",
    },
    "evaluate": {"batch_size": 16},
    "register": {"name": "attacked", "metric": "mean_iou", "minimum": 0.0},
}
CODES = (0, 2, 75)
"""Exit codes of a command that a user understands: done, a sentence, a sentence that may pass."""

Trial = tuple[str, str]
"""What was tried, and what went wrong; empty where nothing did."""

Trials = Generator[Trial, None, None]
"""Of one kind of attack, one after another, endless or not."""


@dataclass(frozen=True)
class Outcome:
    """Of a command.

    Attributes:
        code: its exit code; None where it did not end in time and was killed.
        text: what it printed.
    """

    code: int | None
    text: str

    def fault(self, codes: Sequence[int] = CODES) -> str:
        """What a user would complain about; empty if nothing."""
        last = (self.text.strip().splitlines() or [""])[-1][:160]
        if self.code is None:
            return f"hang; last line: {last}"
        if "Traceback (most recent call last)" in self.text:
            raised = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", self.text, re.MULTILINE)
            return f"traceback: {(raised or [last])[-1][:160]}"
        if self.code not in codes:
            return f"exit code {self.code}: {last}"
        if self.code in (2, 75) and not re.search(r"^error: |: error: |^ERROR: ", self.text, re.MULTILINE):
            return f"exit code {self.code} without a sentence: {last}"
        return ""


class Ground:
    """The folder of all attacks.

    Attributes:
        base: a workspace in which the six steps have run; ``copy`` it.
        warm: runs commands in a process that has imported everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warm = Warm()
        self._copies = 0
        self.base = folder / "base"
        self.base.mkdir(parents=True)
        for name in ("components", "segmodels", "dvc.yaml", "Makefile", ".dvcignore"):
            (self.base / name).symlink_to(ROOT / name)
        write_params(self.base, PARAMS)
        for step in STEPS:
            outcome = self.call(self.base, step, seconds=120)
            if outcome.code != 0:
                raise RuntimeError(f"{step} fails without any attack: {outcome.text}")

    def copy(self, *without: str, of: Path | None = None) -> Path:
        """A workspace of one's own, like ``of`` (default: the base) without these folders or files in it."""
        self._copies += 1
        target = self.folder / f"{self._copies:04d}"
        shutil.copytree(of or self.base, target, symlinks=True)
        for name in without:
            remove(target / name)
        return target

    def call(self, workspace: Path, *arguments: str, seconds: float = 20, **variables: str) -> Outcome:
        """A command of the product in the warm process: milliseconds instead of seconds to start."""
        return Outcome(*self.warm.call(workspace, arguments, variables, seconds))

    def end(self) -> None:
        self.warm.end()


def run(workspace: Path, *command: str | Path, seconds: float = 60, **variables: str) -> Outcome:
    """A command in a process of its own; killed with its children when the time is over."""
    process = start(workspace, *command, **variables)
    return wait(process, seconds)


def start(workspace: Path, *command: str | Path, **variables: str) -> subprocess.Popen[str]:
    """A command in a session of its own."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=workspace,
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def wait(process: subprocess.Popen[str], seconds: float) -> Outcome:
    try:
        text, _ = process.communicate(timeout=seconds)
        return Outcome(process.returncode, text)
    except subprocess.TimeoutExpired:
        kill(process)
        return Outcome(None, process.communicate()[0])


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 for the process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables of a command: no store, no store's address, no proxy of this machine's user."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "SEGMODELS_", "AWS_")) and not name.lower().endswith("_proxy")
    }
    here = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    return own | here | dict(variables)


def write_params(workspace: Path, params: Mapping[str, Any]) -> None:
    (workspace / "params.yaml").write_text(yaml.safe_dump(dict(params)))


def remove(path: Path) -> None:
    """A file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def until(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def torn(workspace: Path) -> str:
    """Half an output of a command that was not killed; empty if there is none."""
    left = [path.relative_to(workspace).as_posix() for path in workspace.rglob("*.partial*")]
    return f"left behind: {', '.join(left[:3])}" if left else ""


def mean_iou(workspace: Path, evaluation: str = "evaluation") -> float:
    metrics = json.loads((workspace / "data" / evaluation / "metrics.json").read_text())
    return float(metrics["mean_iou"])

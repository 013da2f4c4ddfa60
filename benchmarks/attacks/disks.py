"""Disks that are full or read-only, files of limited size, outputs that cannot be made. Needs ``unshare -rm``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attacks.ground import PYTHON, STEPS, Ground, Trials, remove, run, torn
from benchmarks.attacks.inputs import write_folder

SMALL_DISK = """
mount -t tmpfs -o size=2g tmpfs "$1" && cp -a . "$1" && cd "$1" || exit 99
export TMPDIR="$PWD"
mount -o "remount,$2" "$PWD" || exit 99
shift 2
"$@"
code=$?
find . -name '*.partial*' | sed 's/^/left behind: /'
exit $code
"""
READ_ONLY = "ro"
PREDICT = ("predict", "--model", "data/model", "--images", "images", "--out", "data/masks")


def full(ground: Ground) -> Trials:
    """Each command on a disk, temporary files included, that has 256, 0 or 2048 KiB free."""
    for free in (256, 0, 2048):
        for command in _commands():
            workspace = _ready(ground, command)
            size = sum(-(-path.lstat().st_size // 4096) * 4 for path in workspace.rglob("*")) + free
            yield f"{command[0]} with {free} KiB left", _small(workspace, f"size={size}k", command)


def limited_files(ground: Ground) -> Trials:
    """Each command under a limit of the size of files (``ulimit -f``) of 64, 4 or 1024 KiB: a result or a sentence, and
    no half output.
    """
    for limit in (64, 4, 1024):
        for command in sorted(_commands(), key=lambda command: command[0] not in ("train", "register")):
            workspace = _ready(ground, command)
            limited = ["prlimit", f"--fsize={limit * 1024}", *PYTHON, *command]
            outcome = run(workspace, *limited, seconds=90, TMPDIR=str(workspace))
            fault = outcome.fault((0, 2)) or torn(workspace)
            if outcome.code == 2 and (workspace / "data" / STEPS.get(command[0], "masks")).exists():
                fault = fault or "an output of a command that failed"
            yield f"{command[0]} with files of at most {limit} KiB", fault


def read_only(ground: Ground) -> Trials:
    """Each command in a workspace that cannot be written; with a file where its output, or its folder, should be."""
    for command in _commands():
        yield f"{command[0]} in a read-only workspace", _small(_ready(ground, command), READ_ONLY, command)
        workspace = _ready(ground, command)
        option = STEPS.get(command[0], "out")
        for name, where in {"a file as output": "file", "a file as the output's folder": "file/inside"}.items():
            (workspace / "file").write_text("precious")
            outcome = ground.call(workspace, *command, f"--{option}", where, seconds=60)
            fault = outcome.fault((2,)) or torn(workspace)
            if (workspace / "file").read_text() != "precious":
                fault = fault or "the file is changed"
            yield f"{command[0]} with {name}", fault


def _commands() -> Iterator[tuple[str, ...]]:
    yield from ((step,) for step in STEPS)
    yield PREDICT


def _ready(ground: Ground, command: tuple[str, ...]) -> Path:
    """A workspace without what the command makes."""
    workspace = ground.copy(*([f"data/{STEPS[command[0]]}"] if command[0] in STEPS else []))
    if command[0] == "train":
        remove(workspace / "data" / "checkpoints")
    if command[0] == "predict":
        write_folder(workspace / "set")
        shutil.move(workspace / "set" / "images", workspace / "images")
    return workspace


def _small(workspace: Path, option: str, command: tuple[str, ...]) -> str:
    disk = workspace.with_name(f"{workspace.name}-disk")
    disk.mkdir()
    script = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(disk), option]
    outcome = run(workspace, *script, *PYTHON, *command, seconds=60)
    if outcome.code == 99 or "unshare:" in outcome.text:
        raise RuntimeError(f"no file system of one's own here: {outcome.text.strip()[-200:]}")
    if "left behind: " in outcome.text and "error: " in outcome.text:
        return outcome.text[outcome.text.index("left behind: ") :].splitlines()[0]
    return outcome.fault((0, 2))

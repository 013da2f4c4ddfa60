"""Parameters and files as nobody should write them: a sentence or a result answers, never a traceback or a wait."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.attacks.ground import PARAMS, STEPS, Ground, Trials, remove, torn, write_params

VALUES: tuple[Any, ...] = (
    -1,
    0,
    10**30,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "text",
    "x" * 5000,
    [],
    {},
    True,
    None,
    [[1]],
    "1e400",
)

TEXTS: dict[str, bytes] = {
    "aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n".encode() for n in range(8))
    + b"train: {options: *i}\n",
    "an alias of itself": b"train: {options: &a {x: *a}}\n",
    "not UTF-8": b"train: {experiment: \xff\xfe}\n",
    "nested deeply": b"train: {options: " + b"[" * 5000 + b"]" * 5000 + b"}\n",
    "an integer of 5000 digits": b"train: {seed: " + b"9" * 5000 + b"}\n",
    "no date": b"train: {experiment: 2001-99-99}\n",
    "a key twice": b"train: {epochs: 3}\ntrain: {minutes: 0.01}\n",
    "a list": b"- train\n",
    "a number": b"5\n",
    "a tag": b"train: !!python/object/apply:os.system [touch attacked]\n",
    "tabs": b"train:\n\tepochs: 3\n",
    "zeros": bytes(1000),
    "half a mapping": b"train: {epochs: 3, options: {",
}

DAMAGES = ("empty", "half", "zeros", "noise", "flipped", "list", "number", "nested", "folder", "unreadable", "loop")


def parameters(ground: Ground) -> Trials:
    """Files of parameters that are none, then every key with values that it cannot have, in random order."""
    from components.params.reading import plain
    from components.params.schema import PipelineParams

    workspace = ground.copy()
    file = workspace / "params.yaml"
    for name, text in TEXTS.items():
        file.write_bytes(text)
        outcome = ground.call(workspace, "train", seconds=20)
        fault = outcome.fault()
        if (workspace / "attacked").exists():
            fault = "a command was executed"
        yield f"params.yaml: {name}", fault
    for name, make in {
        "a folder": os.mkdir,
        "a pipe": os.mkfifo,
        "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        remove(file)
        make(file)
        yield f"params.yaml: {name}", ground.call(workspace, "train", seconds=20).fault((2,))
    remove(file)
    base = {**PARAMS, "train": {**PARAMS["train"], "minutes": 0.01}}
    for assignment in (
        "train.epochs=" + "[" * 3000,
        "train.options.widths.0=4",
        "train=5",
        "=",
        "train.epochs",
        ".=1",
        "train.epochs.x=1",
    ):
        write_params(workspace, base)
        yield f"--set {assignment[:40]}", ground.call(workspace, "train", "--set", assignment).fault()
    cases = [
        (path, value)
        for path in _leaves(plain(PipelineParams()))
        for value in VALUES
        if (path[-1], value) != ("compile", True)  # a value that is right and takes a minute
    ]
    random.Random(0).shuffle(cases)
    for path, value in cases:
        write_params(workspace, _with(base, path, value))
        outcome = ground.call(workspace, path[0], seconds=30)
        yield f"{'.'.join(path)}: {str(value)[:20]!r}", outcome.fault()


def files(ground: Ground) -> Trials:
    """Every file of the workspace, damaged, for the step that reads it; then a dataset's own files."""
    readers = {
        "dataset": "preprocess",
        "validation": "preprocess",
        "shards": "train",
        "checkpoints": "train",
        "model": "evaluate",
        "evaluation": "register",
    }
    workspace = ground.copy()
    cases = [
        (path.relative_to(workspace), step, damage)
        for folder, step in readers.items()
        for path in sorted((workspace / "data" / folder).rglob("*"))
        if path.is_file() and path.suffix not in (".html", ".png", ".jpg", ".css", ".svg", ".md")
        for damage in DAMAGES
    ]
    cases += [(Path("mlflow.db"), "evaluate", damage) for damage in DAMAGES]
    random.Random(0).shuffle(cases)
    folders = _datasets(ground)
    for number, (file, step, damage) in enumerate(cases):
        fresh = ground.copy(*([f"data/{STEPS[step]}"] if "checkpoints" not in file.parts else ["data/model"]))
        if step == "train" and "checkpoints" not in file.parts:
            remove(fresh / "data" / "checkpoints")
        harm(fresh / file, damage, number)
        yield f"{file}: {damage}, read by {step}", ground.call(fresh, step, seconds=30).fault() or torn(fresh)
        shutil.rmtree(fresh, ignore_errors=True)
        if number % 4 == 0 and (trial := next(folders, None)):
            yield trial


def _datasets(ground: Ground) -> Trials:
    """Datasets in a folder: ingest, validate and preprocess, as far as they go."""
    for name in ("classes.txt", "images/train/000.png", "masks/train/000.png", "splits"):
        for damage in (*DAMAGES, "pipe", "endless", "name"):
            workspace = ground.copy("data")
            write_folder(workspace / "set")
            write_params(workspace, {"ingest": {"source": "folder", "path": "set"}})
            harm(workspace / "set" / name, damage, 0)
            fault = ""
            for step in ("ingest", "validate", "preprocess"):
                outcome = ground.call(workspace, step, seconds=30)
                fault = fault or outcome.fault()
                if outcome.code:
                    break
            yield f"dataset's {name}: {damage}", fault
            shutil.rmtree(workspace, ignore_errors=True)


def harm(path: Path, damage: str, seed: int) -> None:
    """Damage a file in one of DAMAGES' ways."""
    content = bytearray(path.read_bytes()) if path.is_file() else bytearray(b"text")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    remove(path)
    if damage == "folder":
        path.mkdir()
    elif damage == "loop":
        path.symlink_to(path)
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "endless":
        path.symlink_to("/dev/zero")
    elif damage == "name":
        path.write_bytes(content)
        Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff.png")).write_bytes(content)
    else:
        if damage == "flipped" and content:
            for _ in range(20):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        made: Mapping[str, bytes] = {
            "empty": b"",
            "half": bytes(content[: len(content) // 2]),
            "zeros": bytes(len(content)),
            "noise": draw.randbytes(max(len(content), 100)),
            "list": b"[]",
            "number": b"7",
            "nested": b"[" * 20_000,
        }
        path.write_bytes(made.get(damage, bytes(content)))
        if damage == "unreadable":
            path.chmod(0)


def write_folder(root: Path) -> None:
    """A dataset of two classes in the layout ``folder``, with splits."""
    draw = np.random.default_rng(0)
    for split, count in {"train": 6, "val": 2, "test": 2}.items():
        for number in range(count):
            for kind, pixels in {
                "images": draw.integers(0, 256, (24, 32, 3)),
                "masks": draw.integers(0, 2, (24, 32)),
            }.items():
                path = root / kind / split / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "classes.txt").write_text("background\nobject\n")


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _with(params: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The parameters with one key's value replaced."""
    copy = yaml.safe_load(yaml.safe_dump(dict(params)))
    section = copy
    for key in path[:-1]:
        section = section.setdefault(key, {})
    section[path[-1]] = value
    return copy

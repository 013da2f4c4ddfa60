"""The steps before and after training beside a plain reading of the same files: ``python -m benchmarks.steps``.

Each step is the command line that `dvc repro` calls, the start of Python and its imports included. What it is measured
against is one pass of OpenCV over all
images and masks of the dataset, in one thread: what any tool that looks at every file has to do at least.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.report import markdown_table, write_section

ROOT = Path(__file__).resolve().parents[1]
STEPS = {
    "ingest": ["--cache", "cache", "--dataset", "dataset"],
    "validate": ["--dataset", "dataset", "--validation", "validation"],
    "preprocess": ["--dataset", "dataset", "--validation", "validation", "--shards", "shards"],
    "train": ["--shards", "shards", "--checkpoints", "checkpoints", "--model", "model"],
    "evaluate": ["--shards", "shards", "--model", "model", "--evaluation", "evaluation"],
    "register": [
        "--shards",
        "shards",
        "--model",
        "model",
        "--evaluation",
        "evaluation",
        "--registration",
        "registration",
    ],
}
# One epoch: the rest of the step train is its start, one validation and its end.
PARAMS = {
    "train": {"epochs": 1, "options": {"widths": [16, 32, 64, 128, 256]}, "batch_size": 16},
    "ingest": {"digits": {"train": 3000, "val": 200, "test": 200}},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(json.dumps(PARAMS))
        seconds = {step: run(step, arguments, folder) for step, arguments in STEPS.items()}
        files = [*(folder / "cache").rglob("*.png"), *(folder / "dataset").rglob("*.png")]
        read(files)  # once, so that all are in the system's cache
        plain = read(files)
    rows = [[step, value, value / plain] for step, value in seconds.items()]
    table = markdown_table(["step", "s", "× reading all files"], [["one pass of OpenCV", plain, 1], *rows])
    images = sum(PARAMS["ingest"]["digits"].values())
    write_section(
        "Steps",
        f"{images} digits scenes ({len(files)} PNG files), one epoch of the demo's U-Net in train.\n\n{table}",
        ("opencv-python-headless",),
    )


def run(step: str, arguments: list[str], folder: Path) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "components", step, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return time.perf_counter() - start


def read(files: list[Path]) -> float:
    """Seconds to decode all files."""
    start = time.perf_counter()
    for path in files:
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

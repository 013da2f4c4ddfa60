"""The steps beside a plain reading of the same files: ``python -m benchmarks.steps [demo] [camvid] [growth]``.

Each step is the command line that `dvc repro` calls, the start of Python and its imports included. It is measured
against one pass of OpenCV over all images and masks of the dataset, in one thread: the least that any tool that looks
at every file has to do. CPU seconds count, of all processes together, as other work on the machine hardly changes them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.costs import Cost, cost_of
from benchmarks.report import markdown_table, write_section

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SEGMODELS_SHARED_DATA", ROOT.parent / "shared" / "data"))
STEPS = {
    "ingest": ("cache", "dataset"),
    "validate": ("dataset", "validation"),
    "preprocess": ("dataset", "validation", "shards"),
    "train": ("shards", "checkpoints", "model"),
    "evaluate": ("shards", "model", "evaluation"),
    "register": ("shards", "model", "evaluation", "registration"),
    "report": ("dataset", "validation", "model", "evaluation", "registration"),
}
OF_DATA = ("ingest", "validate", "preprocess")
PACKAGES = ("opencv-python-headless", "pillow", "great_expectations")
COUNTS = (5_000, 15_000, 50_000)
"""Samples of the synthetic folders."""


def main() -> None:
    for name in sys.argv[1:] or ("demo", "camvid", "growth"):
        with tempfile.TemporaryDirectory() as folder:
            {"demo": demo, "camvid": camvid, "growth": growth}[name](Path(folder))


def demo(folder: Path) -> None:
    """All steps on the built-in digits, and the report. One epoch: the rest of train is its start, validation, end."""
    counts = {"train": 3000, "val": 200, "test": 200}
    train = {"epochs": 1, "options": {"widths": [16, 32, 64, 128, 256]}, "batch_size": 16}
    write_params(folder, {"train": train, "ingest": {"digits": counts}})
    costs = {step: cost(step, folder) for step in STEPS}
    again = cost("ingest", folder)
    files = [path for name in ("cache", "dataset") for path in (folder / name).rglob("*.png")]
    plain = reading(files)
    rows: list[list[object]] = [["one pass of OpenCV", plain, plain, 1.0]]
    rows += [[step, one.seconds, one.cpu, one.cpu / plain] for step, one in costs.items()]
    rows.insert(2, ["of it, drawing the digits", costs["ingest"].seconds - again.seconds,
                    costs["ingest"].cpu - again.cpu, (costs["ingest"].cpu - again.cpu) / plain])  # fmt: skip
    write_section(
        "Steps",
        f"{sum(counts.values())} digits scenes ({len(files)} PNG files), one epoch of the demo's U-Net in train.\n\n"
        + markdown_table(["step", "s", "CPU s", "CPU × reading all files"], rows),
        PACKAGES,
    )


def camvid(folder: Path) -> None:
    """The steps of the data on CamVid."""
    root = SHARED / "camvid"
    if not root.is_dir():
        raise SystemExit(f"no CamVid in {root}: set SEGMODELS_SHARED_DATA to the folder that holds camvid/")
    write_params(folder, {"ingest": {"source": "folder", "path": str(root), "splits": {"test": "val"}}})
    costs = {step: cost(step, folder) for step in OF_DATA}
    samples = json.loads((folder / "dataset" / "dataset.json").read_text())["samples"]
    number = sum(samples.values())
    files = [path for path in root.rglob("*") if path.suffix in (".jpg", ".png")]
    plain = reading(files)
    rows: list[list[object]] = [["one pass of OpenCV", plain, len(files) / 2 / plain, 1.0]]
    rows += [[step, one.cpu, number / one.cpu, one.cpu / plain] for step, one in costs.items()]
    write_section(
        "Steps on CamVid",
        f"{number} samples of 480x360 pixels ({len(files)} JPEG and PNG files, as val serves as test too); ingest finds"
        " the layout, hashes all files and writes the manifest.\n\n"
        + markdown_table(["step", "CPU s", "samples per CPU s", "CPU × reading all files"], rows),
        PACKAGES,
    )


def growth(folder: Path) -> None:
    """The steps of the data on more and more samples."""
    rows: list[list[object]] = []
    for count in COUNTS:
        place = folder / str(count)
        write_samples(place / "set", count)
        write_params(place, {"ingest": {"source": "folder", "path": str(place / "set")}})
        for step in OF_DATA:
            one = cost(step, place)
            rows.append([f"{step}, {count:,}", one.cpu, 1e3 * one.cpu / count, one.megabytes])
        shutil.rmtree(place)
    rows.sort(key=lambda row: OF_DATA.index(str(row[0]).partition(",")[0]))
    write_section(
        "Steps on more and more samples",
        "Synthetic samples of 48x32 pixels in one folder; memory of the largest process.\n\n"
        + markdown_table(["step, samples", "CPU s", "CPU ms per sample", "MB"], rows),
        PACKAGES,
    )


def cost(step: str, folder: Path) -> Cost:
    options = [part for name in STEPS[step] for part in (f"--{name}", name)]
    return cost_of([sys.executable, "-m", "components", step, *options], folder, {"PYTHONPATH": str(ROOT)})


def write_params(folder: Path, params: Mapping[str, Any]) -> None:
    (folder / "params.yaml").write_text(json.dumps(params))


def write_samples(root: Path, count: int) -> None:
    """Noise with a box, and its mask."""
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        for split in ("train", "val", "test"):
            (root / part / split).mkdir(parents=True)
    (root / "classes.txt").write_text("background\nbox\n")
    for number in range(count):
        name = f"{('train', 'train', 'train', 'val', 'test')[number % 5]}/{number:06d}.png"
        mask = np.zeros((32, 48), np.uint8)
        top, left = random.integers(0, 16, 2)
        mask[top : top + 14, left : left + 20] = 1
        image = random.integers(0, 120, (32, 48, 3), dtype=np.uint8) + 100 * mask[:, :, None]
        cv2.imwrite(str(root / "images" / name), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        cv2.imwrite(str(root / "masks" / name), mask)


def reading(files: list[Path]) -> float:
    """CPU seconds to decode all files, the second time: then they are in the system's cache."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    for _ in range(2):
        start = time.process_time()
        for path in files:
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.setNumThreads(threads)
    return time.process_time() - start


if __name__ == "__main__":
    main()

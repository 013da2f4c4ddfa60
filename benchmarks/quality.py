"""Quality reached in equal time, beside a plain loop of segmentation_models.pytorch: ``python -m benchmarks.quality
--peer-python PYTHON``.

Both train on CamVid's train split for the same minutes of the clock, one after the other, and are measured on its val
split, at the labels' size, by the same confusion matrix. Ours is the pipeline with a file of parameters; the peer runs
in an environment of its own (benchmarks/requirements-quality.txt): see quality_peer.py. It needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import yaml

from benchmarks.report import markdown_table, write_section
from segmodels.data.layouts import open_layout
from segmodels.metrics import ConfusionMatrix
from segmodels.metrics.scores import frequency_weighted_iou, mean_iou

ROOT = Path(__file__).resolve().parents[1]
STEPS = {
    "ingest": ("--cache", "data/cache", "--dataset", "data/dataset"),
    "validate": ("--dataset", "data/dataset", "--validation", "data/validation"),
    "preprocess": ("--dataset", "data/dataset", "--validation", "data/validation", "--shards", "data/shards"),
    "train": ("--shards", "data/shards", "--checkpoints", "data/checkpoints", "--model", "data/model"),
    "evaluate": ("--shards", "data/shards", "--model", "data/model", "--evaluation", "data/evaluation"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="of the environment with the peer")
    parser.add_argument("--params", type=Path, default=ROOT / "params/camvid.yaml", help="ours (params/camvid.yaml)")
    parser.add_argument("--minutes", type=float, default=10, help="of each training (10)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (3)")
    arguments = parser.parse_args()
    params = yaml.safe_load(arguments.params.read_text())
    camvid = (arguments.params.resolve().parent / params["ingest"]["path"]).resolve()
    params["ingest"]["path"] = str(camvid)
    found: dict[str, list[tuple[float, float]]] = {"segmodels": [], "segmentation_models.pytorch": []}
    for seed in range(arguments.seeds):
        params["train"] |= {"minutes": arguments.minutes, "epochs": 100_000, "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            found["segmodels"].append(ours(params, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            peer = [arguments.peer_python, ROOT / "benchmarks/quality_peer.py", camvid, folder]
            subprocess.run([*peer, str(arguments.minutes), str(seed)], check=True)
            found["segmentation_models.pytorch"].append(measured(camvid, Path(folder)))
        print(f"seed {seed}: {json.dumps({name: scores[-1] for name, scores in found.items()})}", flush=True)
    rows = [
        [name, *(number for scores in zip(*runs, strict=True) for number in summary(scores))]
        for name, runs in found.items()
    ]
    table = markdown_table([f"{arguments.minutes:g} minutes", "val MIoU", "spread", "val FWIoU", "spread"], rows)
    write_section(f"Quality on CamVid ({arguments.params.name})", f"{arguments.seeds} seeds each.\n\n{table}")


def ours(params: dict, folder: Path) -> tuple[float, float]:
    """MIoU and FWIoU of the pipeline, run in an empty folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    for step, places in STEPS.items():
        command = [sys.executable, "-m", "components", step, *places]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    metrics = json.loads((folder / "data/evaluation/metrics.json").read_text())
    return metrics["mean_iou"], metrics["frequency_weighted_iou"]


def measured(camvid: Path, predictions: Path) -> tuple[float, float]:
    """MIoU and FWIoU of the masks that the peer wrote for the val split."""
    layout = open_layout("camvid", camvid)
    matrix = ConfusionMatrix(layout.labels.num_classes, layout.labels.ignore_index)
    for sample in layout.samples():
        if sample.split == "val":
            prediction, truth = predictions / f"{Path(sample.id).name}.png", layout.annotation(sample)
            assert truth is not None
            matrix.update(cv2.imread(str(prediction), cv2.IMREAD_UNCHANGED), truth.classes)
    counts = matrix.counts
    return mean_iou(counts), frequency_weighted_iou(counts)


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the largest minus the smallest."""
    return statistics.mean(values), max(values) - min(values)


if __name__ == "__main__":
    main()

"""Quality reached in equal time, beside a plain loop of segmentation_models.pytorch: ``python -m benchmarks.quality
--peer-python PYTHON [--imagenet]``.

Both train on CamVid's train split for the same minutes of the clock, one after the other, and are measured on its val
split, at the labels' size, by the same confusion matrix. Ours is the pipeline with params/camvid.yaml; the peer runs in
an environment of its own (benchmarks/requirements-quality.txt): see quality_peer.py. With ``--imagenet`` both begin
with the same weights of EfficientNet-Lite0, which the extra ``segmodels[pretrained]`` brings, and ours has the changes
of ``PRETRAINED``. It needs a quiet machine.
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
from typing import Any

import cv2
import torch
import yaml

from benchmarks.report import markdown_table, write_section
from segmodels.data.layouts import open_layout
from segmodels.encoders.pretrained import resolved
from segmodels.encoders.registry import create_encoder
from segmodels.encoders.weights import read_state_dict
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

PRETRAINED: dict[str, dict[str, Any]] = {
    "preprocess": {"longer_side": None},
    "train": {
        "model": "deeplab_v3_plus_resnet50",
        "options": {"encoder": "efficientnet_lite0", "encoder_weights": "imagenet"},
        "lr": 0.002,
        "augment": {"crop": [224, 320], "scale": [0.75, 1.75], "flip": 0.5}
        | dict.fromkeys(("brightness", "contrast", "saturation"), 0.3),
    },
}
"""Changes of params/camvid.yaml for a training from ImageNet's weights, which need fewer epochs: full-size images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="of the environment with the peer")
    parser.add_argument("--camvid", type=Path, default=ROOT / "datasets/camvid", help="the dataset (datasets/camvid)")
    parser.add_argument("--imagenet", action="store_true", help="from ImageNet's weights, not from random ones")
    parser.add_argument("--minutes", type=float, default=10, help="of each training (10)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (3)")
    arguments = parser.parse_args()
    camvid = arguments.camvid.resolve()
    params = parameters(camvid, PRETRAINED if arguments.imagenet else {})
    found: dict[str, list[tuple[float, float]]] = {"segmodels": [], "segmentation_models.pytorch": []}
    for seed in range(arguments.seeds):
        params["train"] |= {"minutes": arguments.minutes, "epochs": 100_000, "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            found["segmodels"].append(ours(params, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            peer = [arguments.peer_python, ROOT / "benchmarks/quality_peer.py", camvid, folder]
            body = lite0(Path(folder, "lite0.pt")) if arguments.imagenet else []
            subprocess.run([*peer, str(arguments.minutes), str(seed), *body], check=True)
            found["segmentation_models.pytorch"].append(measured(camvid, Path(folder)))
        print(f"seed {seed}: {json.dumps({name: scores[-1] for name, scores in found.items()})}", flush=True)
    rows = [
        [name, *(number for scores in zip(*runs, strict=True) for number in summary(scores))]
        for name, runs in found.items()
    ]
    table = markdown_table([f"{arguments.minutes:g} minutes", "val MIoU", "spread", "val FWIoU", "spread"], rows)
    start = "from ImageNet's weights" if arguments.imagenet else "from random weights"
    write_section(f"Quality on CamVid {start}", f"Trainings of each: {arguments.seeds}.\n\n{table}")


def parameters(camvid: Path, changes: dict[str, dict]) -> dict:
    """params/camvid.yaml for the dataset in a folder, with changes by step."""
    params = yaml.safe_load((ROOT / "params/camvid.yaml").read_text())
    params["ingest"]["path"] = str(camvid.resolve())
    return params | {step: params[step] | own for step, own in changes.items()}


def lite0(path: Path) -> list[str]:
    """The peer's encoder and a file that has its ImageNet weights by timm's names."""
    encoder = create_encoder("efficientnet_lite0")
    published = read_state_dict(resolved("imagenet", "efficientnet_lite0"))
    weights = {encoder.translate(key): tensor for key, tensor in published.items()}
    torch.save({key: tensor for key, tensor in weights.items() if not key.startswith("classifier")}, path)
    return ["timm-tf_efficientnet_lite0", str(path)]


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

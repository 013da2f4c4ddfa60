"""What pretrained weights are worth on CamVid: ``python -m benchmarks.pretraining``.

The pipeline with a file of parameters and DeepLab v3+ on EfficientNet-Lite0, for the same minutes of the clock from
random weights and from ImageNet's, which the extra ``segmodels[pretrained]`` brings without a download. Measured on the
val split, at the labels' size. It needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality import ROOT, ours, summary
from benchmarks.report import markdown_table, write_section

BODY = {"encoder": "efficientnet_lite0"}
STARTS: dict[str, dict[str, Any]] = {
    "random weights": BODY,
    "ImageNet's weights": {**BODY, "encoder_weights": "imagenet"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=ROOT / "params/camvid.yaml", help="(params/camvid.yaml)")
    parser.add_argument("--minutes", type=float, default=20, help="of each training (20)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each (1)")
    parser.add_argument("--lr", type=float, default=0.001, help="learning rate of all trainings (0.001)")
    arguments = parser.parse_args()
    params = yaml.safe_load(arguments.params.read_text())
    params["ingest"]["path"] = str((arguments.params.resolve().parent / params["ingest"]["path"]).resolve())
    params["train"] |= {
        "model": "deeplab_v3_plus_resnet50",
        "lr": arguments.lr,
        "minutes": arguments.minutes,
        "epochs": 100_000,
    }
    found: dict[str, list[tuple[float, float]]] = {start: [] for start in STARTS}
    for seed in range(arguments.seeds):
        for start, options in STARTS.items():
            params["train"] |= {"options": options, "seed": seed}
            with tempfile.TemporaryDirectory() as folder:
                found[start].append(ours(params, Path(folder)))
        print(f"seed {seed}: {json.dumps({start: scores[-1] for start, scores in found.items()})}", flush=True)
    rows = [
        [start, *(number for scores in zip(*runs, strict=True) for number in summary(scores))]
        for start, runs in found.items()
    ]
    header = [f"{arguments.minutes:g} minutes from", "val MIoU", "spread", "val FWIoU", "spread"]
    text = f"DeepLab v3+ on EfficientNet-Lite0, {arguments.seeds} seeds each.\n\n{markdown_table(header, rows)}"
    write_section(f"What pretraining is worth ({arguments.params.name})", text)


if __name__ == "__main__":
    main()

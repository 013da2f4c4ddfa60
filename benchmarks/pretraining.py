"""What pretrained weights are worth on CamVid: ``python -m benchmarks.pretraining``.

DeepLab v3+ on EfficientNet-Lite0, for the same minutes of the clock from random weights and from ImageNet's, which the
extra ``segmodels[pretrained]`` brings without a download; all else as ``quality.PRETRAINED``. Measured on the val
split, at the labels' size. It needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.quality import PRETRAINED, ROOT, ours, parameters, summary
from benchmarks.report import markdown_table, write_section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, default=ROOT / "datasets/camvid", help="the dataset (datasets/camvid)")
    parser.add_argument("--minutes", type=float, default=20, help="of each training (20)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each (1)")
    arguments = parser.parse_args()
    params = parameters(arguments.camvid, PRETRAINED)
    params["train"] |= {"minutes": arguments.minutes, "epochs": 100_000}
    options = params["train"]["options"]
    starts = {"random weights": {**options, "encoder_weights": None}, "ImageNet's weights": options}
    found: dict[str, list[tuple[float, float]]] = {start: [] for start in starts}
    for seed in range(arguments.seeds):
        for start, own in starts.items():
            params["train"] |= {"options": own, "seed": seed}
            with tempfile.TemporaryDirectory() as folder:
                found[start].append(ours(params, Path(folder)))
        print(f"seed {seed}: {json.dumps({start: scores[-1] for start, scores in found.items()})}", flush=True)
    rows = [
        [start, *(number for scores in zip(*runs, strict=True) for number in summary(scores))]
        for start, runs in found.items()
    ]
    header = [f"{arguments.minutes:g} minutes from", "val MIoU", "spread", "val FWIoU", "spread"]
    text = f"DeepLab v3+ on EfficientNet-Lite0; trainings of each: {arguments.seeds}.\n\n{markdown_table(header, rows)}"
    write_section("What pretraining is worth on CamVid", text)


if __name__ == "__main__":
    main()

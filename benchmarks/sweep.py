"""Train a dozen models under one budget, each an experiment of DVC's queue and a run in MLflow: ``python -m
benchmarks.sweep``.

The models differ, all else is params.yaml (or ``--params``): the data, the loss, the schedule, the minutes of training.
The table and the chart set the test split's MIoU against parameters and images per second, which is measured at the
end, model after model on the same images.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.report import markdown_table, side_by_side, write_section
from components.tracking.client import mlflow_client
from segmodels import create_model
from segmodels.models.analysis import count_parameters

ROOT = Path(__file__).resolve().parents[1]
BATCH = 16

# Small bodies where the model takes any: what is compared is the arrangement, at a size that a laptop trains in
# minutes.
SMALL = {"encoder": "resnet18"}
MODELS: dict[str, dict[str, Any]] = {
    "unet": {"widths": [16, 32, 64, 128, 256]},
    "attention_unet": {"widths": [16, 32, 64, 128, 256]},
    "unet_plus_plus": {"widths": [16, 32, 64, 128, 256]},
    "fcn_resnet50": SMALL,
    "refinenet_resnet101": SMALL,
    "bisenet_v2": {},
    "segnext_t": {},
    "deeplab_v3_plus_resnet50": SMALL,
    "pspnet_r50_d8": SMALL,
    "encnet_r50_d8": SMALL,
    "upernet_r50": SMALL,
    "ocrnet_hr18s": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, for each model (default 2)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=MODELS,
        default=list(MODELS),
        metavar="NAME",
        help=f"of {', '.join(MODELS)} (default: all)",
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing: table and chart of the runs that are in MLflow"
    )
    options = parser.parse_args()
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes is {options.minutes}, expected more than 0")
    dvc("repro", "preprocess")  # once for all; the report looks at the images' size
    experiment = f"sweep-{yaml.safe_load((ROOT / 'params.yaml').read_text())['train']['experiment']}"
    if not options.report:
        train_all(options.models, options.minutes, experiment)
    runs = newest_runs(experiment)
    chosen = {name: runs[name] for name in options.models if name in runs}
    if not chosen:
        raise SystemExit(f"no run of {experiment} was measured: DVC's lines above say why")
    rows = measured(chosen)
    header = ["model", "encoder", "test MIoU", "test FWIoU", "million parameters", "epochs", "prediction, images/s"]
    table = markdown_table(header, [list(row.values()) for row in rows])
    chart = ROOT / "docs" / "images" / f"{experiment}.png"
    draw(rows, chart)
    height, width = image_size()
    budget = f"{float(next(iter(runs.values())).data.params['minutes']):g} minutes of training each"
    setting = f"{budget}, images {height}x{width}, {torch.get_num_threads()} threads; all else as params.yaml."
    picture = f"![MIoU against parameters and speed](../{chart.relative_to(ROOT)})"
    write_section(f"Models under one budget: {experiment}", f"{setting}\n\n{table}\n\n{picture}")


def dvc(*arguments: str) -> None:
    """Run DVC. Where it fails, it has said why: this process ends with its exit code."""
    if code := subprocess.run(["dvc", *arguments], cwd=ROOT, check=False).returncode:
        raise SystemExit(code)


def train_all(models: list[str], minutes: float, experiment: str) -> None:
    """Queue an experiment for each model and run the queue to its end; DVC reports a model that fails, and the table
    leaves it out.
    """
    stamp = time.strftime("%m%d%H%M")
    own = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]
    for name in models:
        values = {
            "minutes": minutes,
            "epochs": 10_000,
            "experiment": experiment,
            "model": name,
            "options": MODELS[name],
        }
        sets = [part for assignment in assignments(own, values) for part in ("--set-param", assignment)]
        dvc("exp", "run", "--queue", "--name", f"{name.replace('_', '-')}-{stamp}", *sets)
    subprocess.run(["dvc", "exp", "run", "--run-all", "--jobs", "1"], cwd=ROOT, check=False)


def assignments(own: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """``--set-param`` of DVC that give section ``train`` these values; ``own`` is the section in params.yaml.

    DVC merges a mapping into the one in the file, so a mapping is removed first and then set anew.
    """
    return [
        text
        for key, value in values.items()
        for text in (
            *([f"~train.{key}"] if isinstance(value, Mapping) and key in own else []),
            f"{'' if key in own and not isinstance(value, Mapping) else '+'}train.{key}={_hydra(value)}",
        )
    ]


def _hydra(value: Any) -> str:
    """A value in the grammar of Hydra's overrides, which DVC reads."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    return str(value)


def newest_runs(experiment: str) -> dict[str, Any]:
    """The last measured run of each model."""
    client = mlflow_client()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise SystemExit(f"MLflow has no experiment {experiment!r}: run without --report first")
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], max_results=1000)
    return {run.data.params["model"]: run for run in runs if "test/miou" in run.data.metrics}


def image_size() -> tuple[int, int]:
    """Height and width of the images that the models were trained on."""
    from segmodels.data.shards import ShardReader

    height, width = ShardReader(ROOT / "data" / "shards", "test").image(0).shape[:2]
    return height, width


def measured(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each model, best first."""
    client = mlflow_client()
    images = torch.randn(BATCH, 3, *image_size())
    models = {
        name: create_model(name, int(run.data.params["classes"]), **MODELS[name]).eval() for name, run in runs.items()
    }
    with torch.inference_mode():
        milliseconds = side_by_side(
            {name: partial(model, images) for name, model in models.items()}, rounds=5, warmup=2
        )
    rows = [
        {
            "model": name,
            "encoder": MODELS[name].get("encoder", "its own"),
            "miou": f"{run.data.metrics['test/miou']:.4f}",
            "fwiou": f"{run.data.metrics['test/fwiou']:.4f}",
            "parameters": count_parameters(models[name]) / 1e6,
            "epochs": 1 + max(value.step for value in client.get_metric_history(run.info.run_id, "val/miou")),
            "speed": 1e3 * BATCH / milliseconds[name],
        }
        for name, run in runs.items()
    ]
    return sorted(rows, key=lambda row: row["miou"], reverse=True)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """MIoU against parameters and against images per second, a named point for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
    for axis, key, label in zip(
        axes, ("parameters", "speed"), ("million parameters", f"prediction, images/s (batches of {BATCH})"), strict=True
    ):
        middle = math.sqrt(min(row[key] for row in rows) * max(row[key] for row in rows))
        for place, row in enumerate(rows):  # by MIoU: neighbours have their names on either side
            left = row[key] > middle
            axis.scatter(row[key], float(row["miou"]), s=36)
            axis.annotate(
                row["model"],
                (row[key], float(row["miou"])),
                xytext=(-5 if left else 5, -10 if place % 2 else 4),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=8,
            )
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.margins(x=0.2, y=0.1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test MIoU")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

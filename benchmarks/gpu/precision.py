"""What a training in half precision costs in quality, on the models whose half-precision outputs differ most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.loop import create_fit
from benchmarks.gpu.setting import Setting

MODEL, EPOCHS = "knet_fcn_r50_d8", 3


def precision(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Loss of the last epoch and MIoU of K-Net after three epochs from scratch by precision (float32: matrix products
    in float32, convolutions in TF32); the other seed shows what chance alone does.
    """
    halves = ("bfloat16", "float16") if setting.device == "cuda" else ("bfloat16",)
    for kind, seed in (("float32", 0), *((half, 0) for half in halves), ("float32", 1)):
        if (name := f"{kind}, seed {seed}") not in known:
            yield name, trained(setting, kind, seed)


def trained(setting: Setting, kind: str, seed: int) -> dict[str, Any]:
    options = {"epochs": EPOCHS, "validate_every": EPOCHS, "optimizer": "adamw", "lr": 1e-4}
    settings = setting.training(MODEL, precision=kind, seed=seed, **options)
    epochs: list[dict[str, float]] = []
    with TemporaryDirectory() as folder:
        fit = create_fit(setting, settings, Path(folder))
        fit.on_epoch = lambda _, metrics: epochs.append(metrics)
        start = time.perf_counter()
        fit.run()
    found = fit.progress.best_metrics
    states = fit.optimisation.optimizer.state
    steps = states[next(iter(states))]["step"]
    return {
        "seconds": time.perf_counter() - start,
        "steps": f"{int(steps)} of {fit.progress.step}",
        **{name: found[name] for name in found if name.endswith("miou")},
        **{name: epochs[-1][name] for name in epochs[-1] if name == "train/loss"},
    }

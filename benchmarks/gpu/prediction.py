"""Images per second of evaluation and prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.gpu.setting import LABELS, Setting
from segmodels.inference.bundle import load_bundle, save_bundle
from segmodels.inference.measure import measure
from segmodels.inference.predictor import Predictor
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task


def prediction(setting: Setting, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Images per second: a split measured from its shards, and masks of images in memory."""
    _, reader = setting.readers()
    images = np.stack([reader.image(index) for index in range(len(reader))])
    for name in ("unet", "deeplab_v3_plus_resnet50"):
        if name not in known:
            predictor = Predictor(_bundle(setting, name), setting.device)
            seconds = {
                "evaluate": _seconds(setting, partial(measure, predictor, reader, setting.batch)),
                "predict": _seconds(setting, partial(predictor.results, images, setting.batch)),
            }
            yield name, {f"{kind}, images/s": len(images) / value for kind, value in seconds.items()}


def _seconds(setting: Setting, run: Callable[[], object]) -> float:
    """Of the second time: the first chooses algorithms."""
    run()
    setting.synchronize()
    start = time.perf_counter()
    run()
    setting.synchronize()
    return time.perf_counter() - start


def _bundle(setting: Setting, name: str) -> Any:
    chosen = setting.model(name)
    options = chosen.get("options", {})
    model = create_model(chosen["model"], LABELS.num_classes, **options)
    with TemporaryDirectory() as folder:
        save_bundle(
            Path(folder), model, name=chosen["model"], options=options, task=create_task("semantic", LABELS),
            mean=(127.0,) * 3, std=(60.0,) * 3, lineage={}, metrics={}, longer_side=None, dtype="uint8", spatial_dims=2,
        )  # fmt: skip
        return load_bundle(Path(folder))

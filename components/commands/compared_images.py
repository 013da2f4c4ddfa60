"""The test images on which two registered models differ most, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from segmodels.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.tracking.compared_runs import ComparedRun


def compared_images(
    client: Any,
    pair: Sequence[ComparedRun],
    ids: Sequence[str],
    scores: Sequence[Mapping[str, float]],
    shards: Path,
) -> Figure:
    """Two rows of pictures for each image, one per model.

    Args:
        ids: of test images.
        scores: of the images, for each model.
        shards: folder that preprocess wrote.

    Raises:
        InputError: a run has no registered model, or the shards lack an image.
    """
    from components.tracking.model_registry import REGISTERED, download_bundle
    from segmodels import plots
    from segmodels.data.preview import as_rgb
    from segmodels.data.shards import ShardReader
    from segmodels.inference.bundle import load_bundle
    from segmodels.inference.predictor import Predictor, choose_device

    reader = ShardReader(shards, "test")
    indices = {name: index for index in range(len(reader)) if (name := reader.id(index)) in ids}
    if missing := [name for name in ids if name not in indices]:
        raise InputError(
            f"{shards} has no test image {missing[0]!r}: name the shards that both models were measured on"
        )
    rows: dict[tuple[str, int], Any] = {}
    for number, run in enumerate(pair):
        if not run.version:
            raise InputError(f"run {run.id} has no registered model: register it, or leave --shards out")
        with TemporaryDirectory() as folder:
            bundle = load_bundle(download_bundle(f"{REGISTERED}{run.version}", Path(folder), client))
        predictor = Predictor(bundle, choose_device())
        for name in ids:
            image, annotation = np.array(reader.image(indices[name])), reader.annotation(indices[name])
            result = predictor.measured(image, annotation)
            caption = f"{name} · {run.id[:8]} {scores[number][name]:.3f}"
            rows[name, number] = predictor.task.compare(as_rgb(image), annotation, result, caption)
    return plots.comparisons([rows[name, number] for name in ids for number in range(len(pair))], reader.labels)

"""A model's files in MLflow, as a version of the registry points to them."""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.environment import environment

if TYPE_CHECKING:
    import numpy as np
    from mlflow.models import ModelSignature

    from segmodels.tasks.base import Task

REQUIREMENTS = (
    *("mlflow", "torch", "numpy", "scipy"),
    *("opencv-python-headless", "pillow", "safetensors", "pycocotools"),
)
"""Packages that a process needs to load and run a registered model; their installed versions are written into it.
segmodels itself is inside.
"""

WRITER = "writer"
"""Tag of saved files until they are a version: the process that writes them, or the pipeline run whose attempts take
turns.
"""

ABANDONED_SECONDS = 3600
"""Age of unfinished files of another machine whose process is taken to be gone."""


def save_model(
    client: Any, name: str, *, run_id: str, model_digest: str, contents: Path, task: Task, example: np.ndarray
) -> Any:
    """Save the files; MLflow's description of them. Those that a killed process left are completed, or taken as they
    are where it had uploaded all. Once they are a version, ``leave`` them.

    Args:
        client: MLflow's.
        name: of the registered model.
        run_id: the training's run, which gets the model as its output.
        model_digest: of the model.
        contents: folder with what to put into the model; its subfolder ``bundle`` is the model.
        task: what the model predicts.
        example: images (1, *spatial, channels) of the type that the model takes.
    """
    import mlflow
    from mlflow.models import Model

    import segmodels

    with _quiet():
        run = client.get_run(run_id)
        experiment = run.info.experiment_id
        facts = {"model_digest": model_digest, WRITER: _writer()}
        place = _left(client, experiment, run_id, model_digest) or client.create_logged_model(
            experiment, name, source_run_id=run_id, tags=facts
        )
        if place.status.name == "READY":
            return place
        # The killed process may have noted it as the run's output, which MLflow refuses a second time
        is_output = place.model_id in {one.model_id for one in run.outputs.model_outputs}
        return Model.log(
            artifact_path=None,
            model_id=place.model_id,
            flavor=mlflow.pyfunc,
            run_id=None if is_output else run_id,
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={path.stem: str(path) for path in contents.iterdir()},
            code_paths=[str(Path(segmodels.__file__).parent)],
            signature=_signature(example, task),
            input_example=example,
            pip_requirements=pip_requirements(),
        )


def leave(client: Any, model_id: str) -> None:
    """Say that saved files need no further step: they are a version, or were one that is deleted."""
    client.delete_logged_model_tag(model_id, WRITER)


def pip_requirements() -> list[str]:
    """The versions at hand, without local parts such as ``+cpu``."""
    from importlib.metadata import version

    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def _left(client: Any, experiment: str, run_id: str, model_digest: str) -> Any:
    """Files of this model whose writer was killed before they were a version, None where there are none."""
    for found in client.search_logged_models([experiment], f"tags.model_digest = '{model_digest}'"):
        usable = found.status.name in ("PENDING", "READY") and WRITER in found.tags
        if usable and found.source_run_id == run_id and _is_abandoned(found):
            client.set_logged_model_tags(found.model_id, {WRITER: _writer()})
            return found
    return None


def _is_abandoned(model: Any) -> bool:
    import psutil

    writer = model.tags.get(WRITER, "")
    host, _, process = writer.partition(" ")
    if host == socket.gethostname() and process.isdecimal():
        return not psutil.pid_exists(int(process))
    return writer == environment().pipeline_run or time.time() - model.creation_timestamp / 1000 > ABANDONED_SECONDS


def _writer() -> str:
    return environment().pipeline_run or f"{socket.gethostname()} {os.getpid()}"


def _signature(example: np.ndarray, task: Task) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    types = {"FP32": "float32", "BYTES": "S"}
    specs = task.tensor_specs(spatial_dims=example.ndim - 2)
    outputs: list[Any] = [
        TensorSpec(np.dtype(types.get(one.datatype, one.datatype.lower())), one.shape, one.name if specs[1:] else None)
        for one in specs
    ]
    inputs: list[Any] = [TensorSpec(example.dtype, (-1,) * (example.ndim - 1) + example.shape[-1:])]
    signature = ModelSignature(Schema(inputs), Schema(outputs))
    # MLflow then hands over the input as it comes instead of refusing single images and lists of images of several
    # sizes, which no one shape of a signature can describe. The model itself rejects anything that is not an image.
    signature._is_signature_from_type_hint = True
    return signature


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's notes on what it does, warnings stay."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*type hints.*")
        try:
            yield
        finally:
            logger.setLevel(level)

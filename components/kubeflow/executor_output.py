"""Describes a step's outputs to Kubeflow: executor_output.json, and pages for its UI.

Kubeflow hands a task its executor input: JSON with the name and place of every output and of the file for their
description (executor_output.json). Without that file artifacts have no metadata, the UI no confusion matrix, and runs
outside a cluster (kfp.local) not even artifacts.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from components.artifacts import (
    CONFUSION,
    DATASET,
    DESCRIPTION,
    METRICS,
    PLACE_OF_FACTS,
    PLACE_OF_SHARDS,
    REGISTRATION,
    REPORT,
    RUN,
    STATISTICS,
    JsonFile,
)
from components.environment import environment
from components.kubeflow import artifact_pages
from components.kubeflow.changed import OF_RUN
from segmodels.errors import InputError, TransientError
from segmodels.files import parse_json


@dataclass
class Outputs:
    """Description of a step's outputs.

    Attributes:
        metadata: artifact -> facts, shown beside it in the UI.
        files: artifact -> content, of those artifacts that the step itself does not write.
    """

    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


TASK = {"outputs": {"outputFile": str}}
"""Shape of Kubeflow's executor input, as far as every task has it."""


def write_executor_output(executor_input: str, artifact: str = "", folder: Path | None = None) -> None:
    """Describe the outputs of a step that has just succeeded.

    Args:
        executor_input: Kubeflow's JSON.
        artifact: that the step wrote, ``writes`` in the table of steps; empty where it wrote none.
        folder: that holds the artifact.

    Raises:
        InputError: a file of the artifact is missing or damaged, or ``executor_input`` is not such JSON.
    """
    task = _task(executor_input, TASK)
    wanted = task["outputs"]
    outputs = DESCRIBE[artifact](folder) if folder else Outputs()
    described = {}
    for name, artifacts in wanted.get("artifacts", {}).items():
        uri = artifacts["artifacts"][0]["uri"]
        if name in outputs.files:
            _write(local_path(uri), outputs.files[name])
        metadata = _accepted(outputs.metadata.get(name, {}))
        described[name] = {"artifacts": [{"name": name, "uri": uri, "metadata": metadata}]}
    _write(Path(wanted["outputFile"]), json.dumps({"artifacts": described}, indent=1, allow_nan=False))
    if artifact == "registration" and folder:
        _tag_version(REGISTRATION.read(folder), task.get("inputs", {}).get("parameterValues", {}))


def input_paths(executor_input: str, artifact: str) -> tuple[Path, ...]:
    """Where Kubeflow's launcher has put all artifacts of an input that is a list of them. A command line can name one
    artifact of a list only (getPlaceholders in backend/src/v2/component/launcher_v2.go).

    Raises:
        InputError: ``executor_input`` is not such JSON, or lacks that input.
    """
    shape = {"inputs": {"artifacts": {artifact: {"artifacts": [{"uri": str}]}}}}
    artifacts = _task(executor_input, shape)["inputs"]["artifacts"][artifact]["artifacts"]
    return tuple(local_path(one["uri"]) for one in artifacts)


def keep_what_failed(output: Path) -> None:
    """Store what a failed step left for people to look at (``<output>.failed``) beside the checkpoints; print where.

    Kubeflow stores no artifacts of a failed task, and its pod's disk goes with the pod. Never fails; without an object
    store of checkpoints (a run on one machine) the folder lies where the step put it.
    """
    from components.storage.folders import exchange_url, put_folder

    if not environment().checkpoints.startswith("s3://"):
        return
    failed = output.with_name(f"{output.name}.failed")
    if not failed.is_dir():
        return
    try:
        url = f"{exchange_url()}/failed/{environment().pipeline_run or uuid.uuid4()}/{output.name}"
        put_folder(failed, url)
        print(f"{failed} is kept as {url}", flush=True)
    except (InputError, TransientError) as error:
        print(f"{failed} could not be kept ({error})", flush=True)


def local_path(uri: str) -> Path:
    """Where Kubeflow's launcher puts an artifact in the container."""
    for scheme, folder in (("gs://", "/gcs/"), ("minio://", "/minio/"), ("s3://", "/s3/")):
        if uri.startswith(scheme):
            return Path(folder + uri.removeprefix(scheme))
    return Path(uri)


def _task(executor_input: str, shape: Any) -> Any:
    try:
        return parse_json(executor_input, shape)
    except ValueError as error:
        raise InputError(
            f"--executor-input cannot be understood ({error}): give the JSON that Kubeflow passes to a task"
        ) from None


def _accepted(value: Any) -> Any:
    """``value`` without what Kubeflow refuses after the step's work is done: numbers that are not finite, and null
    (backend/src/v2/metadata/converter.go). A dictionary loses such keys, a list has null in their place.
    """
    if isinstance(value, Mapping):
        accepted = {key: _accepted(one) for key, one in value.items()}
        return {key: one for key, one in accepted.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_accepted(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- artifact by artifact


def _dataset(dataset: Path) -> Outputs:
    facts = DATASET.read(dataset)
    shown = {
        "digest": facts["digest"],
        "revision": facts["revision"] or "",
        "layout": facts["layout"],
        "samples": facts["samples"],
        "source": facts["source"],
    }
    return Outputs({"dataset": shown})


def _validation(validation: Path) -> Outputs:
    report = REPORT.read(validation)
    return Outputs(
        {"validation": {"success": report["success"]}}, files={"data_docs": artifact_pages.data_docs(validation)}
    )


def _shards(shards: Path) -> Outputs:
    statistics = STATISTICS.read(shards)
    return Outputs(
        {
            "shards": {
                "digest": statistics["digest"],
                "classes": statistics["labels"]["classes"],
                "mean": statistics["mean"],
                "std": statistics["std"],
            }
        }
    )


def _model(folder: Path) -> Outputs:
    model, run = DESCRIPTION.read(folder), RUN.read(folder)
    return Outputs(
        {
            "model": {
                "framework": "pytorch",
                "architecture": model["name"],
                "mlflow_run": run["run_id"],
                **model["lineage"],
                **model["metrics"],
            }
        }
    )


def _evaluation(evaluation: Path) -> Outputs:
    metrics, confusion = METRICS.read(evaluation), CONFUSION.read(evaluation)
    matrix = {
        "annotationSpecs": [{"displayName": name} for name in confusion["classes"]],
        "rows": [{"row": row} for row in confusion["counts"]],
    }
    return Outputs(
        {"evaluation": metrics, "metrics": metrics, "confusion": {"confusionMatrix": matrix}},
        files={
            "metrics": json.dumps(metrics),
            "confusion": json.dumps(confusion),
            "pictures": artifact_pages.evaluation(evaluation, metrics),
        },
    )


def _registration(registration: Path) -> Outputs:
    facts = REGISTRATION.read(registration)
    shown = {key: facts[key] for key in ("name", "version", "uri", "alias", "reason", "metric", "value")}
    return Outputs({"registration": shown}, files={"model_card": artifact_pages.model_card(registration)})


def _tag_version(facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """So that the notification finds the version, and the next run's step ``changed`` compares with it."""
    from components.kubeflow.notify import PIPELINE_RUN
    from components.tracking.client import mlflow_client
    from components.tracking.model_registry import Registry, Version

    tags = {PIPELINE_RUN: environment().pipeline_run} | {name: parameters.get(name) for name in OF_RUN}
    if known := {name: value for name, value in tags.items() if value}:
        Registry(mlflow_client(), facts["name"]).set_tags(Version(facts["version"], {}), known)


def _part(artifact: str, place: JsonFile, folder: Path) -> Outputs:
    return Outputs({artifact: place.read(folder)})


DESCRIBE: dict[str, Callable[[Path], Outputs]] = {
    "dataset": _dataset,
    "validation": _validation,
    "facts": partial(_part, "facts", PLACE_OF_FACTS),
    "packed": partial(_part, "packed", PLACE_OF_SHARDS),
    "shards": _shards,
    "model": _model,
    "evaluation": _evaluation,
    "registration": _registration,
}

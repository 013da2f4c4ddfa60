"""How experiments and runs look in MLflow's UI: names, descriptions, source, and the columns of the table of runs."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from components.environment import environment
from components.tracking.links import SCORES_VIEW

if TYPE_CHECKING:
    from segmodels.tasks.base import Evaluator, Task

NOTE = "mlflow.note.content"
"""Tag of the description of a run, experiment or version."""

KIND = "mlflow.experimentKind"
EXPERIMENT = {
    KIND: "custom_model_development",  # "Machine learning" in the UI; without it the pages of generative AI open
    NOTE: (
        "Trainings of image segmentation models, one run each: curves of every epoch, scores of the test split"
        " (`test/...`), pictures under Artifacts, and the registered version."
    ),
}
"""Tags of an experiment, where it does not have them."""

COLUMNS = f"mlflow.sharedViewState.{SCORES_VIEW}"
"""Tag of the columns that ``links.experiment_page`` opens with."""

SEPARATOR = " · "


def run_name(model: str, losses: Iterable[str], lr: float, key: str) -> str:
    """``unet cross_entropy+dice lr=0.003 · a1b2c3``. The digits tell runs apart that differ in anything else.

    Args:
        key: of the training's checkpoints, which follows from data, code and parameters.
    """
    return f"{' '.join(filter(None, (model, '+'.join(losses), f'lr={lr:g}')))}{SEPARATOR}{key[:6]}"


def dataset_words(source: Mapping[str, Any]) -> str:
    """Where a dataset comes from, in few words: ``digits``, ``road-scenes at v1.2``."""
    place = str(source.get("path") or source.get("kind", "unknown")).rstrip("/").rsplit("/", 1)[-1]
    return f"{place} at {source['rev']}" if source.get("rev") else place


def user() -> str:
    """Who runs this process; in a container often nobody by name."""
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"


def source_tags(code_revision: str) -> dict[str, str]:
    """Tags of the command that ran and of its commit; ``code_revision`` as ``lineage.code_revision`` gives it."""
    pipeline = environment().pipeline_run
    stage = "dvc repro train" if "DVC_STAGE" in os.environ else "python -m components train"
    tags = {
        "mlflow.source.type": "JOB" if pipeline else "LOCAL",
        "mlflow.source.name": f"pipeline run {pipeline}" if pipeline else stage,
    }
    if code_revision != "unknown":
        tags["mlflow.source.git.commit"] = code_revision.removesuffix("-dirty")
        tags["mlflow.source.git.dirty"] = str(code_revision.endswith("-dirty")).lower()
    return tags


def with_part(note: str, part: str) -> str:
    """A run's description with ``part`` in the place of the part that begins with the same word, else at its end; what
    a person wrote stays.
    """
    parts = note.split(SEPARATOR) if note else []
    first = part.split()[0]
    if any(old.split()[:1] == [first] for old in parts):
        return SEPARATOR.join(part if old.split()[:1] == [first] else old for old in parts)
    return SEPARATOR.join([*parts, part])


def class_metrics(task: Task, evaluator: Evaluator, split: str) -> dict[str, float]:
    """The score of each class under its name in a run: ``val/iou/road``."""
    score, metrics = task.class_score, {}
    for row in evaluator.per_class():
        name = re.sub(r"[^\w\-. ]", "_", row["class"])  # the characters that MLflow takes
        metrics[f"{task.metric(score, split)}/{name}"] = row[score]
    return metrics


def present_experiment(client: Any, experiment_id: str, metrics: Sequence[str]) -> None:
    """Give an experiment its kind and description, where it has none, and its table of runs the columns of ``metrics``.
    An experiment whose owner denies it to this user stays as it is.
    """
    from mlflow.exceptions import MlflowException

    have = client.get_experiment(experiment_id).tags
    tags = {key: value for key, value in EXPERIMENT.items() if key not in have}
    shown = _columns(have.get(COLUMNS))
    if new := [column for name in metrics if (column := f"metrics.`{name}`") not in shown]:
        tags[COLUMNS] = json.dumps({"selectedColumns": shown + new})
    with suppress(MlflowException):
        for key, value in tags.items():
            client.set_experiment_tag(experiment_id, key, value)


def _columns(tag: str | None) -> list[str]:
    """Columns in the tag that MLflow's UI reads; a new tag has that of the registered models."""
    try:
        return list(json.loads(tag or "")["selectedColumns"])
    except (ValueError, TypeError, KeyError):  # there is none, or a person changed it
        return ["attributes.`Models`"]

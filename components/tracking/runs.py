"""MLflow runs: started by train, added to by evaluate and register."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.artifacts import JOURNAL, RUN
from components.environment import environment
from components.running.project import project_root
from components.tracking.client import VARIABLE, mlflow_client, post, recorded_uri, resolved_uri
from components.tracking.journal import Entry, Journal, entry_now
from components.tracking.local_store import ARTIFACTS
from components.tracking.mlflow_errors import answers, is_missing
from components.tracking.presentation import EXPERIMENT, NOTE, present_experiment, user, with_part
from segmodels.addresses import without_credentials
from segmodels.errors import InputError

PARAM_LENGTH, TAG_LENGTH = 6000, 5000  # MLflow refuses longer values
BATCH = 1000
"""Metrics of one request; MLflow refuses more."""

STARTED_AS = "started_as"
"""Tag of a run, and key of run.json: a name that is known before the run is made, so that a process killed then, or a
pod before its first state is stored, leaves a run that the next attempt finds and takes up.
"""


class Run:
    """One MLflow run, open for logging. What is logged is there when the call returns.

    All methods raise InputError where MLflow refuses and TransientError where it does not answer.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def _answers(self) -> Any:
        return answers(f"run {self.run_id}", self.client.tracking_uri)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested parameters, as ``optimizer.lr``; those the run already has stay as they are."""
        from mlflow.entities import Param

        with self._answers():
            have = self.client.get_run(self.run_id).data.params
            new = [Param(key, _text(value, PARAM_LENGTH)) for key, value in flat(params).items() if key not in have]
            if new:
                self.client.log_batch(self.run_id, params=new)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with self._answers():
            self.client.log_batch(
                self.run_id, tags=[RunTag(key, _text(value, TAG_LENGTH)) for key, value in tags.items()]
            )

    def experiment_id(self) -> str:
        with self._answers():
            return str(self.client.get_run(self.run_id).info.experiment_id)

    def describe(self, part: str) -> None:
        """Put ``part`` into the run's description, see ``presentation.with_part``."""
        with self._answers():
            note = self.client.get_run(self.run_id).data.tags.get(NOTE, "")
        self.set_tags({NOTE: with_part(note, part)})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """As ``journal.entry_now``; values that the run already has are left out."""
        entry = entry_now(metrics, step)
        with self._answers():
            have = self.client.get_run(self.run_id).data.metrics
        new = {name: value for name, value in entry.metrics.items() if have.get(name) != value}
        self.send([Entry(entry.step, entry.time, new)])

    def log_dataset(self, *, name: str, source: Mapping[str, Any], digest: str, context: str = "training") -> None:
        """The data that the run used, as the run's input in the UI; ``source`` is what ingest recorded."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type=str(source.get("kind", "unknown")),
            source=without_credentials(json.dumps(dict(source))),
        )
        with self._answers():
            self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file, or a folder with all files in it."""
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        with self._answers():
            log(self.run_id, str(path), folder or None)

    def log_picture(self, path: Path, key: str, step: int) -> None:
        """A PNG file as one of a series of pictures that MLflow shows step by step."""
        from PIL import Image

        with self._answers(), Image.open(path) as picture:
            self.client.log_image(self.run_id, picture, key=key, step=step, synchronous=True)

    def send(self, entries: Sequence[Entry], seconds: float | None = None) -> None:
        """Metrics of several steps. A point that MLflow has already is not doubled.

        Args:
            seconds: to wait for an answer of a server, once; None waits and repeats as MLflow's settings say.
        """
        from mlflow.entities import Metric

        points = [(name, value, entry.time, entry.step) for entry in entries for name, value in entry.metrics.items()]
        with self._answers():
            for start in range(0, len(points), BATCH):
                batch = points[start : start + BATCH]
                if seconds is None or not self._is_remote():
                    self.client.log_batch(self.run_id, metrics=[Metric(*point) for point in batch])
                else:
                    named = [
                        {"key": key, "value": _json(value), "timestamp": when, "step": step}
                        for key, value, when, step in batch
                    ]
                    post(self.client, "runs/log-batch", {"run_id": self.run_id, "metrics": named}, seconds)

    def end(self, status: str = "FINISHED", seconds: float | None = None) -> None:
        """Set the run's status: ``FINISHED``, ``FAILED`` or ``KILLED``; ``seconds`` as in ``send``."""
        with self._answers():
            if seconds is None or not self._is_remote():
                self.client.set_terminated(self.run_id, status)
            else:
                ended = {"run_id": self.run_id, "status": status, "end_time": int(time.time() * 1000)}
                post(self.client, "runs/update", ended, seconds)

    def steps(self, metric: str) -> set[int]:
        """At which the run has a value of the metric."""
        with self._answers():
            return {point.step for point in self.client.get_metric_history(self.run_id, metric)}

    def lacks(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of the entries, and of their metrics, that MLflow does not have."""
        with self._answers():
            there = {
                (key, metric.step)
                for key in sorted({key for entry in entries for key in entry.metrics})
                for metric in self.client.get_metric_history(self.run_id, key)
            }
        lacking = [
            Entry(
                entry.step,
                entry.time,
                {key: value for key, value in entry.metrics.items() if (key, entry.step) not in there},
            )
            for entry in entries
        ]
        return [entry for entry in lacking if entry.metrics]

    def _is_remote(self) -> bool:
        return str(self.client.tracking_uri).startswith("http")


def start_run(
    *,
    experiment: str,
    name: str,
    state: Path,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str = "",
    columns: Sequence[str] = (),
) -> Run:
    """Start the run of a training, or resume the one that ``state`` (the checkpoints' folder) names.

    ``name`` and ``description`` are those of a new run; ``columns`` are metrics that the experiment's table shows.
    ``MLFLOW_RUN_ID``, which Kubeflow's MLflow plugin sets, names the run to use; the experiment is then its own.

    Raises:
        InputError: MLflow refuses, or its address or store is wrong.
        TransientError: the tracking server does not answer.
    """
    client = mlflow_client()
    uri = recorded_uri(client.tracking_uri)
    earlier = _earlier(state, uri)
    run_id = os.environ.get("MLFLOW_RUN_ID") or earlier.get("run_id")
    with answers(f"experiment {experiment!r}", client.tracking_uri):
        if run_id and not _taken_up(client, run_id):
            print(f"MLflow does not have run {run_id} any more: a new run takes its place", flush=True)
            run_id = None
        if not run_id:
            facts = {"tracking_uri": uri, "experiment": experiment, STARTED_AS: _name_of_start(state)} | earlier
            state.mkdir(parents=True, exist_ok=True)
            RUN.write(state, facts | {"run_id": ""})
            run_id = _new_run(client, experiment, name, description, facts[STARTED_AS])
        present_experiment(client, client.get_run(run_id).info.experiment_id, columns)
    state.mkdir(parents=True, exist_ok=True)
    RUN.write(state, {"run_id": run_id, "tracking_uri": uri, "experiment": experiment})
    run = Run(client, run_id)
    run.log_params(params)
    run.set_tags(tags)
    return run


def open_run(model: Path) -> Run:
    """The run of the training that wrote the folder ``model``, to add to it. Metrics that train could not send, which
    the journal beside the model holds, are sent.

    Raises:
        InputError: ``model`` names no run, or MLflow has no such run.
        TransientError: the tracking server does not answer.
    """
    facts = RUN.read(model)
    client = mlflow_client(os.environ.get(VARIABLE) or resolved_uri(facts["tracking_uri"]))
    run = Run(client, facts["run_id"])
    with answers(f"run {run.run_id}", client.tracking_uri):
        try:
            finished = client.get_run(run.run_id).info.status == "FINISHED"
        except Exception as error:
            if not is_missing(error):
                raise
            raise InputError(
                f"MLflow at {without_credentials(client.tracking_uri)} has no run {run.run_id}, which"
                f" {RUN.path(model)} names (it was logged to {facts['tracking_uri']}): train again or set"
                " MLFLOW_TRACKING_URI to the right server"
            ) from None
    if not finished:  # a run is finished when all its metrics are there
        run.send(run.lacks(Journal(JOURNAL.path(model)).entries()))
    return run


def _earlier(state: Path, uri: str) -> dict[str, str]:
    """What run.json in ``state`` says of a run of this tracking server; empty where there is none."""
    if not RUN.path(state).exists():
        return {}
    try:
        facts = RUN.read(state)
        if recorded_uri(resolved_uri(facts["tracking_uri"])) == uri:
            return {key: str(value) for key, value in facts.items()}
    except (InputError, KeyError, TypeError, AttributeError):
        print(f"{RUN.path(state)} is damaged: the training gets a new MLflow run", flush=True)
    return {}


def _taken_up(client: Any, run_id: str) -> bool:
    """Set a run to RUNNING; false where MLflow does not have it, or has it among the deleted ones."""
    try:
        if client.get_run(run_id).info.lifecycle_stage == "deleted":
            return False
        client.update_run(run_id, status="RUNNING")
    except Exception as error:
        if is_missing(error):
            return False
        raise
    return True


def _name_of_start(state: Path) -> str:
    """On a cluster all attempts of a training have the same name, as no file of a killed pod may be left. Elsewhere it
    is drawn, and run.json keeps it.
    """
    shared = environment().checkpoints or environment().pipeline_run
    return hashlib.sha256(f"{shared}/{state.name}".encode()).hexdigest()[:32] if shared else uuid.uuid4().hex


def _new_run(client: Any, experiment: str, name: str, description: str, started_as: str) -> str:
    """A new run, or that which a killed process has made under this name and not noted."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER

    experiment_id = _experiment_id(client, experiment)
    unended = f"tags.{STARTED_AS} = '{started_as}' and attributes.status = 'RUNNING'"
    for made in client.search_runs([experiment_id], unended, max_results=1):
        return made.info.run_id
    tags = {MLFLOW_RUN_NAME: name, MLFLOW_USER: user(), NOTE: description, STARTED_AS: started_as}
    return client.create_run(experiment_id, tags=tags).info.run_id


def _experiment_id(client: Any, name: str) -> str:
    """The experiment of that name, made when it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # a local store writes down where artifacts go: the repository, not the folder of a queued experiment
        local = str(client.tracking_uri).startswith("sqlite:")
        try:
            return client.create_experiment(
                name, artifact_location=(project_root() / ARTIFACTS).as_uri() if local else None, tags=EXPERIMENT
            )
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process made it meanwhile
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(f"MLflow experiment {name!r} is deleted: restore it or set train.experiment to another name")
    return found.experiment_id


def _json(value: float) -> float | str:
    """A number as protobuf reads it in JSON."""
    return value if math.isfinite(value) else str(value).replace("inf", "Infinity").replace("nan", "NaN")


def _text(value: Any, length: int) -> str:
    return without_credentials(str(value))[:length]


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters under names with dots, ``optimizer.lr``."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found

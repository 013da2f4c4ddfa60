"""Which MLflow run a step logs to: train starts or resumes it, evaluate and register add to it."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.artifacts import JOURNAL, RUN
from components.environment import environment
from components.running.project import project_root
from components.tracking.client import mlflow_client, recorded_uri, resolved_uri
from components.tracking.journal import Journal
from components.tracking.local_store import ARTIFACTS
from components.tracking.mlflow_errors import TRACKING, answers, is_missing
from components.tracking.presentation import EXPERIMENT, NOTE, present_experiment, user
from components.tracking.run import Run
from segmodels.addresses import without_credentials
from segmodels.errors import InputError

STARTED_AS = "started_as"
"""Tag of a run, and key of run.json: a name that is known before the run is made, so that a process killed then, or a
pod before its first state is stored, leaves a run that the next attempt finds and takes up.
"""


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
        experiment_id = str(client.get_run(run_id).info.experiment_id)
        present_experiment(client, experiment_id, columns)
    state.mkdir(parents=True, exist_ok=True)
    facts = {"run_id": run_id, "tracking_uri": uri, "experiment": experiment, "experiment_id": experiment_id}
    RUN.write(state, facts)
    run = Run(client, run_id)
    run.log_params(params)
    run.set_tags(tags)
    return run


def open_run(model: Path) -> Run:
    """The run of the training that wrote the folder ``model``, to add to it. Metrics that train could not send, which
    the journal beside the model holds, are sent.

    Raises:
        InputError: ``model`` names no run, or MLflow has no such run, or has deleted it or its experiment.
        TransientError: the tracking server does not answer.
    """
    facts = RUN.read(model)
    client = mlflow_client(uri_of(facts))
    run = Run(client, facts["run_id"])
    with answers(f"run {run.run_id}", client.tracking_uri):
        try:
            info = client.get_run(run.run_id).info
        except Exception as error:
            if not is_missing(error):
                raise
            raise InputError(
                f"MLflow at {without_credentials(client.tracking_uri)} has no run {run.run_id}, which"
                f" {RUN.path(model)} names (it was logged to {facts['tracking_uri']}): train again or set"
                " MLFLOW_TRACKING_URI to the right server"
            ) from None
        check_active(client, info)
    if info.status != "FINISHED":  # a run is finished when all its metrics are there
        run.send(run.lacks(Journal(JOURNAL.path(model)).entries()))
    return run


def check_active(client: Any, info: Any) -> None:
    """Raise InputError where a run, or the experiment that it belongs to, is deleted: such a run takes nothing more.

    Args:
        info: of the run, as MLflow gives it.
    """
    if info.lifecycle_stage != "deleted":
        return
    experiment = client.get_experiment(info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        raise InputError(f"run {info.run_id} belongs to {_deleted(experiment)}, or train anew with another name")
    raise InputError(
        f"run {info.run_id} is deleted in MLflow: restore it, `mlflow runs restore --run-id {info.run_id}`, or run the"
        " train step again"
    )


def _deleted(experiment: Any) -> str:
    number = experiment.experiment_id
    return (
        f"MLflow experiment {experiment.name!r}, which is deleted: restore it, `mlflow experiments restore"
        f" --experiment-id {number}`"
    )


def uri_of(facts: Mapping[str, str]) -> str:
    """Address of the tracking server or store that has the run of a run.json."""
    return os.environ.get(TRACKING) or resolved_uri(facts["tracking_uri"])


def _earlier(state: Path, uri: str) -> dict[str, str]:
    """Facts of the run in run.json in ``state``; empty where there is none of this tracking server."""
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
        if not has_run(client, run_id):
            return False
        client.update_run(run_id, status="RUNNING")
    except Exception as error:
        if is_missing(error):
            return False
        raise
    return True


def has_run(client: Any, run_id: str) -> bool:
    """Whether MLflow has the run, and not among the deleted ones, which take no metrics."""
    try:
        return client.get_run(run_id).info.lifecycle_stage != "deleted"
    except Exception as error:
        if is_missing(error):
            return False
        raise


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
        raise InputError(f"train.experiment is {_deleted(found)}, or set another name")
    return found.experiment_id

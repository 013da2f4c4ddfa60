"""MLflow runs. The only file that knows MLflow tracking.

A training never depends on the tracking server: metrics are written to a journal beside the checkpoints first and sent
from there; while the server is away they wait, and what the server lacks is sent when it is back or the training is
resumed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from components.artifacts import JOURNAL, RUN
from components.running.project import project_root
from segmodels.errors import InputError, TransientError

STORE, ARTIFACTS = "mlflow.db", "mlruns"
"""Of the local store: its SQLite database and the folder of its artifacts."""

PARAM_LENGTH = 6000  # MLflow refuses longer values


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the project's root: runs of `dvc exp run --queue` and of
    configurations in folders of their own go to one store.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / STORE}"


def mlflow_client(uri: str | None = None) -> Any:
    """A client of the tracking server.

    Raises:
        InputError: the server does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = unchecked_client(uri)
    try:
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"MLflow at {client.tracking_uri} does not answer ({reason}): start the server or correct"
            " MLFLOW_TRACKING_URI"
        ) from None
    return client


def unchecked_client(uri: str | None = None) -> Any:
    """A client of the tracking server, which has not been asked anything yet.

    Raises:
        InputError: the address is a folder.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
    )  # an outage must not hold up training: the journal waits
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    uri = uri or tracking_uri()
    if urlparse(uri).scheme in ("", "file"):
        raise InputError(
            f"MLflow tracking URI is {uri!r}, a folder, which MLflow no longer takes: use sqlite:///mlflow.db or a"
            " server's http(s) address"
        )
    import mlflow

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # no lines about its database tables
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def _experiment_id(client: Any, name: str) -> str:
    """The experiment of that name, made when it is not there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # a local store writes down where artifacts go: the repository, not the folder of a queued experiment
        local = str(client.tracking_uri).startswith("sqlite:")
        try:
            return client.create_experiment(
                name, artifact_location=(project_root() / ARTIFACTS).as_uri() if local else None
            )
        except MlflowException:  # another process made it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(f"MLflow experiment {name!r} is deleted: restore it or set train.experiment to another name")
    return found.experiment_id


class Run:
    """One MLflow run, open for logging."""

    def __init__(self, client: Any, run_id: str, *, journal: Path | None = None) -> None:
        self.client = client
        self.run_id = run_id
        self.journal = journal
        self._waiting: list[dict[str, Any]] = []
        self._away = False

    # --- what is logged

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested parameters, as ``optimizer.lr``; those the run already has stay as they are."""
        from mlflow.entities import Param

        have = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in _flat(params).items() if key not in have]
        if new:
            self.client.log_batch(self.run_id, params=new)

    def _answered(self, call: Callable[[], Any]) -> None:
        """Do what needs the server now.

        Raises:
            TransientError: it does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            call()
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise TransientError(
                f"MLflow at {self.client.tracking_uri} did not take what run {self.run_id} logs ({reason})"
            ) from error

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._answered(
            lambda: self.client.log_batch(
                self.run_id, tags=[RunTag(key, str(value)[:5000]) for key, value in tags.items()]
            )
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Never fails: what cannot be sent now is sent later, see ``finish``. Scores that are NaN, undefined, are left
        out; losses that are NaN show that a training diverged.
        """
        entry = {
            "step": step,
            "time": int(time.time() * 1000),
            "metrics": {k: float(v) for k, v in metrics.items() if v == v or k.endswith("/loss")},
        }
        if self.journal:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        self._waiting.append(entry)
        self._send()

    def log_dataset(self, *, name: str, source: Mapping[str, Any], digest: str, context: str = "training") -> None:
        """The data that the run used, as the run's input in the UI; ``source`` is what ingest recorded."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest[:36],
            source_type=str(source.get("kind", "unknown")),
            source=json.dumps(dict(source)),
        )
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file, or a folder with all that is in it."""
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        self._answered(lambda: log(self.run_id, str(path), folder or None))

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: ``FINISHED``, ``FAILED`` or ``KILLED``. Tries once more to send what waits."""
        self._send()
        if self._waiting:
            where = f"; they are in {self.journal} and are sent when this training is resumed" if self.journal else ""
            print(
                f"MLflow at {self.client.tracking_uri} is away: {len(self._waiting)} groups of metrics were not"
                f" sent{where}",
                flush=True,
            )
            return
        self.client.set_terminated(self.run_id, status)

    # --- the journal

    def replay(self) -> None:
        """Send journal entries of an earlier process that the server lacks, each exactly once."""
        entries = self._journal_entries()
        for key in sorted({key for entry in entries for key in entry["metrics"]}):
            there = {metric.step for metric in self.client.get_metric_history(self.run_id, key)}
            for entry in entries:
                if entry["step"] in there:
                    entry["metrics"].pop(key, None)
        self._waiting = [entry for entry in entries if entry["metrics"]]
        self._send()

    def logged_steps(self) -> set[int]:
        """Steps in the journal: a resumed training repeats none of them."""
        return {entry["step"] for entry in self._journal_entries()}

    def _journal_entries(self) -> list[dict[str, Any]]:
        """What the journal holds; a last line that a killed process did not finish is cut off."""
        if not self.journal or not self.journal.exists():
            return []
        text = self.journal.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            self.journal.write_text(text, encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def _send(self) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        try:
            while self._waiting:
                entry = self._waiting[0]
                self.client.log_batch(
                    self.run_id,
                    metrics=[
                        Metric(key, value, entry["time"], entry["step"]) for key, value in entry["metrics"].items()
                    ],
                )
                self._waiting.pop(0)
        except (MlflowException, OSError) as error:
            if not self._away:
                print(
                    f"MLflow is away ({str(error).splitlines()[0][:160]}): metrics wait in the journal, training"
                    " continues",
                    flush=True,
                )
            self._away = True
        else:
            self._away = False


def start_run(*, experiment: str, name: str, state: Path, params: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
    """Start the run of a training, or go on with the one that ``state`` (the checkpoints' folder) names.

    ``MLFLOW_RUN_ID``, which Kubeflow's MLflow plugin sets, names the run to use; the experiment is then its own.

    Raises:
        InputError: the tracking server does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None and RUN.path(state).exists():
        earlier = RUN.read(state)
        if earlier["tracking_uri"] == client.tracking_uri:
            run_id = earlier["run_id"]
    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException:
            print(f"MLflow does not know run {run_id} any more: a new run takes its place", flush=True)
            run_id = None
    if run_id is None:
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER

        user = os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
        run_id = client.create_run(
            _experiment_id(client, experiment), tags={MLFLOW_RUN_NAME: name, MLFLOW_USER: user}
        ).info.run_id
    state.mkdir(parents=True, exist_ok=True)
    RUN.write(state, {"run_id": run_id, "tracking_uri": client.tracking_uri, "experiment": experiment})
    run = Run(client, run_id, journal=JOURNAL.path(state))
    run.log_params(params)
    run.set_tags(tags)
    run.replay()
    return run


def open_run(model: Path) -> Run:
    """The run of the training that wrote the folder ``model``, to add to it.

    Raises:
        InputError: ``model`` names no run, or MLflow has no such run.
    """
    facts = RUN.read(model)
    from mlflow.exceptions import MlflowException

    client = mlflow_client(os.environ.get("MLFLOW_TRACKING_URI") or facts["tracking_uri"])
    try:
        client.get_run(facts["run_id"])
    except MlflowException:
        raise InputError(
            f"MLflow at {client.tracking_uri} has no run {facts['run_id']}, which {RUN.path(model)} names: train again"
            " or point to the right server"
        ) from None
    return Run(client, facts["run_id"])


def start_system_metrics(run: Run) -> Any:
    """Log CPU, memory and GPU use every 10 seconds until ``.finish()`` of what is returned."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, tracking_uri=run.client.tracking_uri)
    monitor.start()
    return monitor


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""One MLflow run, open for logging."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.tracking.client import post
from components.tracking.journal import Entry, entry_now
from components.tracking.mlflow_errors import answers
from components.tracking.presentation import NOTE, with_part
from segmodels.addresses import without_credentials

PARAM_LENGTH, TAG_LENGTH = 6000, 5000  # MLflow refuses longer values
BATCH = 1000
"""Metrics of one request; MLflow refuses more."""


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
        """Set the run's status: ``FINISHED``, ``FAILED`` or ``KILLED``; ``seconds`` as in ``send``. A run that has it
        keeps its time of end: the UI shows the duration of the training, not the time until ``sync`` or ``register``.
        """
        with self._answers():
            if seconds is None or not self._is_remote():
                if self.client.get_run(self.run_id).info.status != status:
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

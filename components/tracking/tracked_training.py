"""The MLflow run around a training.

A training never waits for the tracking server: metrics are written to a journal beside the checkpoints and sent from
there by a thread. A copy of the journal lies beside the model: evaluate and register send the metrics that the server
lacks when the training has ended, and a resumed training sends them too.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from components.artifacts import CLASS_SCORES, JOURNAL, RUN
from components.tracking import runs
from components.tracking.journal import Journal, entry_now
from components.tracking.metric_sender import SECONDS_TO_FINISH, SECONDS_TO_STOP, MetricSender
from components.tracking.presentation import class_metrics, source_tags
from components.tracking.reproduction import machine_facts
from components.tracking.run import Run
from components.tracking.validation_pictures import ValidationPictures, key_and_step, waiting
from segmodels.data.shards import ShardReader

if TYPE_CHECKING:
    from segmodels.data.batches import EvaluationBatch
    from segmodels.tasks.base import Evaluator, Task

MOST_CLASS_CURVES = 20
"""Classes whose scores are metrics of each epoch; of more, they are rows of a table among the run's artifacts."""


class TrackedTraining:
    """Context manager: parameters, lineage, data, metrics, and how the training ended. Only the first process has one.

    Entering raises InputError and TransientError as ``runs.start_run``; from then on MLflow stops no training.

    Args:
        name: of the run.
        params: section ``train`` of params.yaml, and other facts worth a parameter of the run.
        facts: lineage, as tags.
        description: of the run, one line.
        columns: metrics that the experiment's table of runs shows.
        state: folder of the training's states, where run.json and the journal lie.
        reader: of the training set.
        task: that is trained.
        pictures: of the validations.
        system_metrics: log CPU, memory and GPU use.
    """

    def __init__(
        self,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        facts: Mapping[str, str],
        description: str,
        columns: Sequence[str],
        state: Path,
        reader: ShardReader,
        task: Task,
        pictures: ValidationPictures,
        system_metrics: bool,
        enabled: bool,
    ) -> None:
        self.experiment = experiment
        self.name = name
        self.params = params
        self.facts = facts
        self.description = description
        self.columns = columns
        self.state = state
        self.reader = reader
        self.task = task
        self.pictures = pictures
        self.system_metrics = system_metrics
        self.enabled = enabled
        self._of_classes: dict[str, float] = {}

    def __enter__(self) -> TrackedTraining:
        if self.enabled:
            self.run = run = runs.start_run(
                experiment=self.experiment,
                name=self.name,
                state=self.state,
                params=self.params,
                tags={**self.facts, **source_tags(self.facts.get("code_revision", "unknown")), **machine_facts()},
                description=self.description,
                columns=self.columns,
            )
            run.log_dataset(name="train", source=self.reader.source, digest=self.reader.digest)
            self.journal = Journal(JOURNAL.path(self.state))
            entries = self.journal.entries()
            # another pod resumes from what the object store has, which may be older than what this run has logged
            self.done = {entry.step for entry in entries} | run.steps("learning_rate")
            self.sender = MetricSender(run, run.lacks(entries))
            for path in waiting(self.pictures.folder):
                self.sender.upload(partial(self._send_picture, path))
            self.monitor = _start_system_metrics(run) if self.system_metrics else None
        return self

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Metrics and pictures of an epoch, once: a resumed training may validate an epoch again. Returns at once."""
        if not self.enabled:
            return
        pictures = self.pictures.write(epoch)
        if epoch not in self.done:
            entry = entry_now({**metrics, **self._of_classes}, epoch)
            self.journal.append(entry)
            self.sender.add(entry)
            for path in pictures:
                self.sender.upload(partial(self._send_picture, path))

    def see(self, epoch: int, batch: EvaluationBatch, results: Sequence[Any]) -> None:
        """Some of a validation's results become pictures."""
        if self.enabled:
            self.pictures.see(epoch, batch, results)

    def count(self, epoch: int, evaluator: Evaluator) -> None:
        """Scores of the classes, for the next ``log``; those of many classes go into a table of their own."""
        if not self.enabled:
            return
        scores = class_metrics(self.task, evaluator, "val")
        self._of_classes = scores if len(scores) <= MOST_CLASS_CURVES else {}
        if not self._of_classes and epoch not in self.done:
            with CLASS_SCORES.path(self.state).open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([epoch, *item] for item in scores.items())

    def _send_picture(self, path: Path) -> None:
        if path.exists():
            self.run.log_picture(path, *key_and_step(path))
            path.unlink()

    def leave_with(self, model: Path) -> None:
        """Put the run's name and its journal beside the model."""
        for file in (RUN, JOURNAL):
            if file.path(self.state).exists():
                shutil.copyfile(file.path(self.state), file.path(model))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self.enabled:
            return
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        if self.monitor:  # it may be waiting for the server
            ending = Thread(target=self.monitor.finish, daemon=True)
            ending.start()
            ending.join(2)
        if error is None and (scores := CLASS_SCORES.path(self.state)).exists():
            self.sender.upload(partial(self.run.log_artifact, scores))
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        unsent = self.sender.finish(status, SECONDS_TO_FINISH if error is None else SECONDS_TO_STOP)
        if unsent:
            lacks = f"the metrics of {unsent} epochs" if unsent > 0 else "the end of this run"
            who = "the next evaluate or register step sends" if error is None else "a resumed training sends"
            print(
                f"MLflow lacks {lacks}: the journal {self.journal.path} keeps the metrics, {who} the rest", flush=True
            )


def _start_system_metrics(run: Run) -> Any:
    """Log CPU, memory and GPU use every 10 seconds until the returned monitor's ``finish()``."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, resume_logging=True, tracking_uri=run.client.tracking_uri)
    monitor.start()
    return monitor

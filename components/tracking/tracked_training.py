"""The MLflow run around a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.tracking import runs
from segmodels.data.shards import ShardReader


class TrackedTraining:
    """Context manager: parameters, lineage, data, metrics, and how the training ended. Only the first process has one.

    Args:
        name: of the run.
        params: section ``train`` of params.yaml, and other facts worth a parameter of the run.
        facts: lineage, as tags.
        state: folder of the training's states, where the run's name and its journal lie.
        reader: of the training set.
        system_metrics: log CPU, memory and GPU use.
    """

    def __init__(
        self,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        facts: Mapping[str, str],
        state: Path,
        reader: ShardReader,
        system_metrics: bool,
        enabled: bool,
    ) -> None:
        self.experiment = experiment
        self.name = name
        self.params = params
        self.facts = facts
        self.state = state
        self.reader = reader
        self.system_metrics = system_metrics
        self.enabled = enabled

    def __enter__(self) -> TrackedTraining:
        if self.enabled:
            self.run = runs.start_run(
                experiment=self.experiment, name=self.name, state=self.state, params=self.params, tags=self.facts
            )
            self.run.log_dataset(name="train", source=self.reader.source, digest=self.reader.digest)
            self.done = self.run.logged_steps()
            self.monitor = runs.start_system_metrics(self.run) if self.system_metrics else None
        return self

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Metrics of an epoch, once: a resumed training may validate an epoch again."""
        if self.enabled and epoch not in self.done:
            self.run.log_metrics(metrics, step=epoch)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self.enabled:
            return
        if self.monitor:
            self.monitor.finish()
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        self.run.finish("FINISHED" if error is None else "KILLED" if stopped else "FAILED")

"""Progress of a training on the screen: a bar on a terminal, one line per epoch everywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from components.running.progress_bar import Item, track
from segmodels.tasks.base import Task
from segmodels.training.state import Progress as TrainingProgress


class TrainingDisplay:
    """Context manager around a training; off on all but the first process.

    Args:
        epochs: of the training.
        task: whose first two headline scores are printed.
    """

    def __init__(self, epochs: int, task: Task, *, enabled: bool) -> None:
        self.epochs = epochs
        self.columns = {"train/loss": "train loss", "val/loss": "val loss"}
        self.columns |= {task.metric(score, "val"): name for score, name in list(task.headline.items())[:2]}
        self.enabled = enabled
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def __enter__(self) -> TrainingDisplay:
        if self.enabled and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[rate]:.0f} images/s"),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", rate=0.0)
            self.bar.start()
        return self

    def on_batch(self, progress: TrainingProgress, batches: int) -> None:
        if self.bar:
            self.bar.update(
                self.task,
                description=f"epoch {progress.epoch + 1}/{self.epochs}",
                completed=progress.batch,
                total=batches,
            )

    def on_epoch(self, epoch: int, metrics: dict[str, float], *, best: bool) -> None:
        """``best``: whether these weights are the best so far, which are kept."""
        if not self.enabled:
            return
        if self.bar:
            self.bar.update(self.task, rate=metrics["images_per_second"])
        values = [f"{name} {metrics[key]:.4f}" for key, name in self.columns.items() if key in metrics]
        self._print(
            f"{time.strftime('%H:%M:%S')} epoch {epoch + 1:3d}/{self.epochs}  {'  '.join(values)}"
            f"  {metrics['images_per_second']:.0f} images/s{' *' if best else ''}"
        )

    def observing(self, batches: Sequence[Item]) -> Iterator[Item]:
        """Pass on the batches that the trained model observes; the bar of the epochs gives way to theirs."""
        self._stop()
        return track(batches, "observing, batches", len(batches))

    def warn(self, message: str) -> None:
        if self.enabled:
            self._print(message)

    def _print(self, line: str) -> None:
        if self.bar:
            self.console.print(line, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

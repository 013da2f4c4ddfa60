"""Compare runs: parameters that differ, scores with intervals, and whether the difference is more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components.commands.option_ranges import check_options
from segmodels.errors import InputError
from segmodels.suggest import nearest

if TYPE_CHECKING:
    from components.tracking.compared_runs import ComparedRun, Measured

MOST_MEASURED = 8
"""Runs whose images are resampled; of more only the scores in MLflow are compared."""


def compare(
    runs: tuple[str, ...] = (),
    /,
    experiment: str | None = None,
    metric: str | None = None,
    resamples: int = 2000,
    html: Path | None = None,
    shards: Path | None = None,
) -> None:
    """Print runs side by side, the first as baseline of the others; best first where an experiment is compared.

    Up to eight runs get 95% intervals of their test scores and the probability of their difference from the baseline
    (paired bootstrap over the test images). The page that ``html`` names has curves, confusion matrices and
    classes too, and needs no network.

    Args:
        runs: run ids or their beginnings, models:/NAME/VERSION or models:/NAME@ALIAS; without any, the last two runs.
        experiment: name of an experiment, all of whose finished runs are compared.
        metric: score that decides, such as mean_iou. None: the first of the task.
        resamples: how often the test images are drawn anew.
        html: file for the page.
        shards: folder that preprocess wrote; the page then shows the test images on which the first two models differ
            most. Both have to be registered.

    Raises:
        InputError: no such run or score, fewer than two runs, or an option out of range.
        TransientError: MLflow does not answer.
    """
    check_options(resamples=(resamples, resamples >= 1, "at least 1"))
    if runs and experiment:
        raise InputError(f"runs and --experiment {experiment!r} are both given, expected one: leave one out")
    if shards and not html:
        raise InputError("--shards adds pictures to a page, but --html is not given: add --html FILE")
    from components.tracking.client import mlflow_client
    from components.tracking.compared_runs import differing, find_runs, measured, significance

    client = mlflow_client()
    found = find_runs(client, runs, experiment)
    with TemporaryDirectory() as temporary:
        counts: dict[str, Measured] = {}
        if len(found) <= MOST_MEASURED:
            there = {run.id: measured(client, run.id, Path(temporary)) for run in found}
            counts = {name: one for name, one in there.items() if one}
        scores = _scores(found, counts, metric)
        decisive = next(iter(scores))
        if experiment:
            found.sort(key=lambda run: -run.metrics.get(scores[decisive], -1.0))
        table = [_row(run, counts.get(run.id), scores, resamples) for run in found]
        comparisons = {
            run.id: significance(counts[run.id], counts[found[0].id], decisive, resamples)
            for run in found[1:]
            if found[0].id in counts and run.id in counts
        }
        _print(found, table, differing(found), comparisons, scores)
        if html:
            from components.commands.comparison_page import write_page

            write_page(html, client, found, counts, table, comparisons, decisive, shards)
            print(f"page: {html}")


def _scores(runs: Sequence[ComparedRun], counts: Mapping[str, Measured], metric: str | None) -> dict[str, str]:
    """Scores -> their names among the metrics of a run; the decisive one first.

    Raises:
        InputError: no run has been measured, none has ``metric``, or the runs are of several tasks.
    """
    tasks = {one.task.name: one.task for one in counts.values()}
    if len(tasks) > 1:
        raise InputError(f"these runs predict different things ({', '.join(tasks)}): compare runs of one task")
    headlines = [{score: task.metric(score, "test") for score in task.headline} for task in tasks.values()]
    # too many runs to measure, or of a version that kept no counts
    known = headlines[0] if headlines else _known(runs)
    if metric is None:
        return known
    if metric not in known:
        raise nearest("score (--metric)", metric, list(known))
    return {metric: known[metric], **known}


def _known(runs: Sequence[ComparedRun]) -> dict[str, str]:
    from segmodels.tasks.registry import TASKS, task_class

    for entry in TASKS:
        task = task_class(entry.name)
        names = {score: task.metric(score, "test") for score in task.headline}
        if any(set(names.values()) <= run.metrics.keys() for run in runs):
            return names
    raise InputError("none of these runs has scores of the test split: run the evaluate step first")


def _row(
    run: ComparedRun, counted: Measured | None, scores: Mapping[str, str], resamples: int
) -> dict[str, tuple[float | None, tuple[float, float] | None]]:
    """Score -> value and interval, None where it is unknown."""
    from segmodels.metrics.significance import interval

    row: dict[str, tuple[float | None, tuple[float, float] | None]] = {}
    for score, name in scores.items():
        value, between = run.metrics.get(name), None
        if counted and value is not None and len(counted.evaluator.images()) > 1:
            between = interval(partial(counted.evaluator.resampled, score), len(counted.evaluator.images()), resamples)
        row[score] = value, between
    return row


def _print(
    runs: Sequence[ComparedRun],
    table: Sequence[Mapping[str, Any]],
    parameters: Sequence[str],
    comparisons: Mapping[str, Any],
    scores: Mapping[str, str],
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console, shown = Console(), Table(box=box.SIMPLE_HEAD)
    shown.add_column("run", no_wrap=True)
    shown.add_column("name", overflow="fold")
    for name in scores.values():
        shown.add_column(name.removeprefix("test/"), overflow="fold", min_width=6 if len(runs) > MOST_MEASURED else 11)
    for run, row in zip(runs, table, strict=True):
        values = [cell(*row[score]).replace(" (", "\n").removesuffix(")") for score in scores]
        shown.add_row(run.id[:8], run.version or run.name, *values)
    console.print(shown)
    if len(runs) > MOST_MEASURED:
        console.print(f"{len(parameters)} parameters differ: {', '.join(parameters)}", soft_wrap=True, highlight=False)
    else:
        differ = Table("parameter", *(run.id[:8] for run in runs), box=box.SIMPLE_HEAD)
        for name in parameters:
            differ.add_row(name, *(run.params.get(name, "–") for run in runs))
        console.print(differ)
    for run in runs[1:]:
        if run.id in comparisons:
            console.print(verdict(run.id[:8], runs[0].id[:8], comparisons[run.id]), soft_wrap=True, highlight=False)


def cell(value: float | None, between: tuple[float, float] | None) -> str:
    """A score with its interval: ``0.8123 (0.79 – 0.83)``."""
    if value is None:
        return "–"
    return f"{value:.4f}" + (f" ({between[0]:.3f} – {between[1]:.3f})" if between else "")


def verdict(mine: str, baseline: str, comparison: Any) -> str:
    """Whether two runs differ, in a sentence; ``comparison`` is None for runs measured on different images."""
    if comparison is None:
        return f"{mine} and {baseline} were not measured on the same images: their scores cannot be compared"
    surely = comparison.low > 0 or comparison.high < 0
    words = ("better than" if comparison.difference > 0 else "worse than") if surely else "not surely different from"
    return (
        f"{mine} is {words} {baseline}: {comparison.metric} {comparison.difference:+.4f}"
        f" ({comparison.confidence:.0%} interval {comparison.low:+.4f} to {comparison.high:+.4f},"
        f" p = {comparison.p_value:.2g}, {comparison.images} images)"
    )

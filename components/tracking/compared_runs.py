"""Runs side by side: their parameters, their scores, and how sure the difference is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import EVALUATION, PER_IMAGE
from components.tracking.mlflow_errors import answers
from components.tracking.runs import check_active
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.metrics.significance import Comparison
    from segmodels.tasks.base import Evaluator, Task

MOST_RUNS = 10_000
EVALUATION_FOLDER = "evaluation"
"""Folder among a run's artifacts for the files of evaluate."""


@dataclass(frozen=True)
class ComparedRun:
    """A run as MLflow describes it; ``version`` is NAME/NUMBER of its registered model, empty without one."""

    id: str
    name: str
    experiment_id: str
    version: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """The counts of a run's evaluation, and their data; ``folder`` holds its files."""

    task: Task
    evaluator: Evaluator
    data_digest: str
    folder: Path


def find_runs(client: Any, names: Sequence[str], experiment: str | None) -> list[ComparedRun]:
    """The runs to compare.

    Args:
        names: runs by id or by the start of it, registered versions as ``models:/NAME/VERSION`` or
            ``models:/NAME@ALIAS``.
        experiment: all its finished runs, newest first; without names and experiment, the last two runs of the
            experiment that the last run belongs to.

    Raises:
        InputError: there is no such run, version or experiment, or fewer than two runs.
    """
    with answers("", client.tracking_uri):
        if names:
            runs = [_run_named(client, name) for name in names]
        elif experiment is not None:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = ", ".join(sorted(one.name for one in client.search_experiments()))
                raise InputError(f"MLflow has no experiment {experiment!r}, only {known}: name one of them")
            runs = _search(client, [found.experiment_id], MOST_RUNS)
        else:
            experiments = [one.experiment_id for one in client.search_experiments()]
            last = _search(client, experiments, 1)
            runs = _search(client, [last[0].info.experiment_id], 2) if last else []
    if len(names) == 1:
        raise InputError(f"{names[0]!r} is the only run that is named, expected at least two: name another one")
    if len(runs) < 2:
        found_runs = "one finished run" if runs else "no finished run"
        raise InputError(f"MLflow has {found_runs} here, expected at least two to compare: train another model")
    ids = [run.info.run_id for run in runs]
    if twice := [run_id for run_id in ids if ids.count(run_id) > 1]:
        raise InputError(f"run {twice[0]} is named twice ({', '.join(names)}), expected different runs: leave one out")
    return [_compared(run) for run in runs]


def differing(runs: Sequence[ComparedRun]) -> list[str]:
    """Names of the parameters in which runs differ."""
    names = sorted({name for run in runs for name in run.params})
    return [name for name in names if len({run.params.get(name) for run in runs}) > 1]


def measured(client: Any, run_id: str, folder: Path) -> Measured | None:
    """The counts of the run's evaluation; None for a run that was not evaluated, or by a version that kept no counts.

    Args:
        folder: for its files.
    """
    import mlflow
    import pyarrow.parquet as pq

    from segmodels.files import parse_json
    from segmodels.labels import LabelMap
    from segmodels.tasks.registry import create_task

    with answers(f"run {run_id}", client.tracking_uri):
        kept = {file.path.rsplit("/", 1)[-1] for file in client.list_artifacts(run_id, EVALUATION_FOLDER)}
        if not {EVALUATION.name, PER_IMAGE.name} <= kept:
            return None
        there = folder / run_id
        there.mkdir()
        for name in kept:
            if name.endswith((".json", ".parquet")):
                mlflow.artifacts.download_artifacts(
                    run_id=run_id,
                    artifact_path=f"{EVALUATION_FOLDER}/{name}",
                    dst_path=str(there),
                    tracking_uri=client.tracking_uri,
                )
    facts = EVALUATION.read(there)
    with PER_IMAGE.reading(there):
        labels = LabelMap.from_dict(parse_json(pq.read_schema(PER_IMAGE.path(there)).metadata[b"labels"]))
    task = create_task(facts["task"], labels, facts["settings"])
    return Measured(task, type(task.evaluator()).read(there), facts["data_digest"], there)


def significance(mine: Measured, baseline: Measured, metric: str, resamples: int) -> Comparison | None:
    """Paired bootstrap over the images; None where both were not measured on the same images."""
    from segmodels.metrics import compare

    ids = mine.evaluator.images()["id"]
    if mine.data_digest != baseline.data_digest or ids != baseline.evaluator.images()["id"] or len(ids) < 2:
        return None
    own, other = (partial(one.evaluator.resampled, metric) for one in (mine, baseline))
    return compare(own, other, metric, len(ids), resamples)


def _search(client: Any, experiments: Sequence[str], most: int) -> list[Any]:
    found: list[Any] = []
    token = None
    while len(found) < most:
        page = client.search_runs(
            list(experiments),
            "attributes.status = 'FINISHED'",
            max_results=min(1000, most - len(found)),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            break
    return found


def _run_named(client: Any, name: str) -> Any:
    from components.tracking.model_registry import is_registered, version_now

    if is_registered(name):
        run_id = client.get_model_version(*version_now(name)).run_id
        return client.get_run(run_id)
    if not (found := _start_with(client, name)):
        for deleted in _start_with(client, name, deleted=True):
            check_active(client, deleted.info)
    if len(found) != 1:
        many = f"{len(found)} runs whose ids start" if found else "no run whose id starts"
        raise InputError(
            f"MLflow has {many} with {name!r}: give the whole id, as `make ui` shows it, or models:/NAME/VERSION"
        )
    return found[0]


def _start_with(client: Any, name: str, deleted: bool = False) -> list[Any]:
    """Runs whose ids start with ``name``, at most three; also of deleted experiments where ``deleted``."""
    from mlflow.entities import ViewType

    if not re.fullmatch(r"[0-9a-z]+", name):  # a letter that no id has would be a wildcard or a quotation mark
        return []
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    experiments = [one.experiment_id for one in client.search_experiments(view)]
    return client.search_runs(experiments, f"attributes.run_id LIKE '{name}%'", view, max_results=3)


def _compared(run: Any) -> ComparedRun:
    return ComparedRun(
        id=run.info.run_id,
        name=run.info.run_name or "",
        experiment_id=str(run.info.experiment_id),
        version=run.data.tags.get("registered_model", ""),
        params=run.data.params,
        metrics=run.data.metrics,
    )

"""Print the results of the last pipeline run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import DATASET, EVALUATION, METRICS, OVERVIEW, PER_CLASS, PICTURES, REGISTRATION, RUN
from components.tracking.model_card import cell, words
from segmodels.errors import InputError


def report(dataset: Path, validation: Path, model: Path, evaluation: Path, registration: Path) -> None:
    """Print tables of the scores and of the classes, and the places of further results.

    Args:
        dataset: folder that ingest wrote.
        validation: folder that validate wrote.
        model: folder that train wrote.
        evaluation: folder that evaluate wrote.
        registration: folder that register wrote.

    Raises:
        InputError: the pipeline has not run to its end.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for folder in (dataset, validation, model, evaluation, registration):
        if not folder.is_dir():
            raise InputError(f"{folder} is not there: run `dvc repro` first")
    metrics = METRICS.read(evaluation)
    decision = REGISTRATION.read(registration)
    facts = DATASET.read(dataset)
    classes = PER_CLASS.read(evaluation)
    headline = EVALUATION.read(evaluation)["headline"]
    pages = _pages(model, decision)
    console = Console()
    images = facts["samples"].get("test", 0)
    summary = Table(box=box.SIMPLE_HEAD, title=f"test split, {images} images", title_justify="left")
    for column in (*headline.values(), "registered as"):
        summary.add_column(column, justify="right")
    registered = f"{decision['name']} version {decision['version']} ({decision['alias']})"
    with METRICS.reading(evaluation):
        summary.add_row(*(_number(metrics[key]) for key in headline), registered)
    console.print(summary)

    table = Table(box=box.SIMPLE_HEAD, padding=0, title="per class", title_justify="left")
    table.add_column("class")
    with PER_CLASS.reading(evaluation):
        columns = [key for key in classes[0] if key != "class" and any(row[key] for row in classes)]
        for column in columns:
            table.add_column(words(column), justify="right", min_width=6)
        for row in classes:
            table.add_row(row["class"], *(cell(row[key], "absent") for key in columns))
    # Where the lines are longer than the terminal's it breaks them; shorter ones would show `0.4…`
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=1000)).minimum)
    console.print(table)
    console.print(f"[bold]{'decision':<13}[/bold] {escape(decision['reason'])}", highlight=False, soft_wrap=True)
    for name, where in {
        "pictures": evaluation / PICTURES,
        "data docs": OVERVIEW.path(validation),
        "metrics": f"{METRICS.path(evaluation)}  (dvc metrics show, dvc metrics diff, dvc plots diff)",
        **pages,
        "predict": f"python -m components predict --model models:/{decision['name']}@champion --images DIR --out DIR",
    }.items():
        console.print(f"[bold]{name:<13}[/bold] {escape(str(where))}", highlight=False, soft_wrap=True)


def _pages(model: Path, decision: Mapping[str, Any]) -> dict[str, str]:
    """Addresses in MLflow's UI. They follow from the steps' files: importing MLflow would take seconds."""
    from components.tracking.links import experiment_page, model_page, run_page, ui_address
    from components.tracking.runs import uri_of

    facts = RUN.read(model)
    uri, run_id, experiment = uri_of(facts), facts["run_id"], facts.get("experiment_id")
    if experiment is None:  # a training of an earlier version
        return {"MLflow run": run_id}
    ui = ui_address(uri)
    return {
        "MLflow UI": ui if uri.startswith("http") else "make ui, then these links",
        "this run": run_page(ui, experiment, run_id),
        "all runs": experiment_page(ui, experiment),
        "model": model_page(ui, decision["name"], decision["version"]),
    }


def _number(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"

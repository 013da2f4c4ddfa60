"""The page of ``compare``: one HTML file with all pictures inside, for any browser, without a network."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.commands.compare import cell, verdict
from components.commands.html_page import as_picture, as_table, write_html
from components.tracking.compared_runs import differing
from components.tracking.mlflow_errors import answers
from components.tracking.model_card import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.tracking.compared_runs import ComparedRun, Measured

MOST_CURVES = 12
"""Runs whose curves are drawn."""

MOST_IMAGES = 10


def write_page(
    path: Path,
    client: Any,
    runs: Sequence[ComparedRun],
    counts: Mapping[str, Measured],
    table: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, Any],
    metric: str,
    shards: Path | None,
) -> None:
    """Write the page whole or not at all; arguments as ``compare`` has them.

    Args:
        table: of each run its scores and their intervals.
        comparisons: run id -> how it compares with the first run.
    """
    parts = [
        "<h1>Runs compared</h1>",
        as_table(["run", "name", "version", *map(words, table[0])], _score_rows(runs, table)),
        *(
            f"<p>{html.escape(verdict(run.id[:8], runs[0].id[:8], comparisons[run.id]))}</p>"
            for run in runs[1:]
            if run.id in comparisons
        ),
        "<h2>Parameters that differ</h2>",
        as_table(
            ["parameter", *(run.id[:8] for run in runs)],
            [[name, *(run.params.get(name, "–") for run in runs)] for name in differing(runs)],
        ),
        "<h2>Curves</h2>",
        *(as_picture(figure) for figure in _curves(client, runs[:MOST_CURVES])),
    ]
    if len(runs) > 1 and all(run.id in counts for run in runs[:2]):
        pair = runs[0], runs[1]
        measured = counts[pair[0].id], counts[pair[1].id]
        parts += ["<h2>Classes</h2>", _classes(pair, measured), "<h2>Confusion</h2>", *_matrices(pair, measured)]
        parts += ["<h2>Images that differ most</h2>", *_images(client, pair, measured, shards)]
    title = f"{metric} of {len(runs)} runs"
    write_html(path, title, parts)


def _score_rows(runs: Sequence[ComparedRun], table: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [run.id[:8], run.name, run.version, *(cell(*value) for value in row.values())]
        for run, row in zip(runs, table, strict=True)
    ]


def _curves(client: Any, runs: Sequence[ComparedRun]) -> Iterator[Figure]:
    """The runs' curves over each other: losses and scores of the validations."""
    from matplotlib.figure import Figure

    names = sorted({name for run in runs for name in run.metrics if name.startswith(("val/", "train/loss"))})
    for name in (one for one in names if one.count("/") == 1):
        figure = Figure(figsize=(6, 3), layout="constrained")  # two fit side by side
        axes = figure.subplots()
        for run in runs:
            if name in run.metrics:
                with answers(f"run {run.id}", client.tracking_uri):
                    history = sorted((point.step, point.value) for point in client.get_metric_history(run.id, name))
                axes.plot(*zip(*history, strict=True), marker=".", label=f"{run.id[:8]} {run.name}"[:60])
        axes.set_title(name, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(color="#00000018")
        axes.legend(fontsize=7, frameon=False)
        yield figure


def _classes(pair: Sequence[ComparedRun], measured: Sequence[Measured]) -> str:
    """Scores of the classes, those that lost most first."""
    score = measured[0].task.class_score
    mine, theirs = ({row["class"]: row[score] for row in one.evaluator.per_class()} for one in measured)
    rows = []
    common = [name for name in mine if name in theirs]
    for name in sorted(common, key=lambda one: np.nan_to_num(theirs[one] - mine[one])):
        change = theirs[name] - mine[name]
        mark = "" if change != change or change == 0 else ' class="better"' if change > 0 else ' class="worse"'
        rows.append([name, *(f"{one[name]:.4f}" for one in (mine, theirs)), (f"{change:+.4f}", mark)])
    return as_table(["class", *(f"{words(score)} of {run.id[:8]}" for run in pair), "change"], rows)


def _matrices(pair: Sequence[ComparedRun], measured: Sequence[Measured]) -> Iterator[str]:
    """Both confusion matrices as shares of the true class, and their difference in percentage points."""
    from matplotlib.figure import Figure

    shares, names = [], list(measured[0].evaluator.confusion()[0])
    for one in measured:
        counts = one.evaluator.confusion()[1].astype(float)
        totals = counts.sum(axis=1, keepdims=True)
        shares.append(100 * np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0))
    if shares[0].shape != shares[1].shape:
        return
    panels = {
        **{run.id[:8]: (share, "Blues", 0, 100) for run, share in zip(pair, shares, strict=True)},
        "difference": (difference := shares[1] - shares[0], "RdBu", *_symmetric(difference)),
    }
    side = max(3.0, 0.22 * len(names))
    figure = Figure(figsize=(3 * side + 2, side + 1), layout="constrained")
    for axes, (title, (values, colors, low, high)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        image = axes.imshow(values, cmap=colors, vmin=low, vmax=high)
        axes.set_title(f"{title}, % of the true class", loc="left", fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
        figure.colorbar(image, ax=axes, shrink=0.8)
    yield as_picture(figure)


def _symmetric(values: np.ndarray) -> tuple[float, float]:
    most = float(np.nanmax(np.abs(values), initial=1.0))
    return -most, most


def _images(
    client: Any, pair: Sequence[ComparedRun], measured: Sequence[Measured], shards: Path | None
) -> Iterator[str]:
    """A table of the images with the largest differences of their scores, and pictures of them where ``shards`` are
    given.
    """
    tables = [one.evaluator.images() for one in measured]
    scores = [dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True)) for table in tables]
    both = [name for name in scores[0] if None not in (scores[0][name], scores[1].get(name))]
    most = sorted(both, key=lambda name: -abs(scores[1][name] - scores[0][name]))[:MOST_IMAGES]
    rows = [
        [name, *(f"{one[name]:.4f}" for one in scores), f"{scores[1][name] - scores[0][name]:+.4f}"] for name in most
    ]
    yield as_table(["image", *(run.id[:8] for run in pair), "change"], rows)
    if shards:
        from components.commands.compared_images import compared_images

        yield as_picture(compared_images(client, pair, most, scores, shards))

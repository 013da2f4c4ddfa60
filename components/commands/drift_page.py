"""The page of ``drift``: every statistic of the served images beside that of the training images."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.commands.drift import described, number
from components.commands.html_page import as_picture, as_table, write_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from segmodels.metrics.drift import Shift

MOST_PICTURES = 12
COLUMNS = 4
BINS = 24


def write_page(
    path: Path,
    title: str,
    sentence: str,
    records: Sequence[Mapping[str, Any]],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    shifts: Mapping[str, Shift],
    found: Mapping[str, Shift],
    limits: Mapping[str, float],
) -> None:
    """Write the page whole or not at all.

    Args:
        title: of the model.
        sentence: the answer.
        records: of the log.
        before, now: statistic -> values of the training images, and of the served images.
        shifts, found: statistic -> how it differs; those that have drifted.
        limits: ``psi`` and ``significance``.
    """
    times = sorted(str(record["time"]) for record in records)
    ordered = sorted(shifts, key=lambda key: (key not in found, -shifts[key].psi))
    facts = [
        ["served images", f"{len(records):,}" + (f", {times[0]} to {times[-1]}" if times else "")],
        ["training images", f"{len(next(iter(before.values()), [])):,}"],
        [
            "drifted means",
            f"population stability index of at least {limits['psi']:g}, and a Kolmogorov-Smirnov test with p below"
            f" {limits['significance']:g} / {len(shifts) or 1} statistics",
        ],
    ]
    rows = [
        [
            described(key),
            number(shifts[key].before),
            number(shifts[key].now),
            f"{shifts[key].psi:.3f}",
            f"{shifts[key].ks:.3f}",
            f"{shifts[key].p_value:.2g}",
            ("drifted", ' class="worse"') if key in found else "",
        ]
        for key in ordered
    ]
    parts = [
        f"<h1>Drift of {html.escape(title)}</h1>",
        f"<p>{html.escape(sentence)}</p>",
        as_table(["", ""], facts),
    ]
    if rows:
        head = ["statistic", "mean in training", "mean served", "PSI", "KS", "p", ""]
        parts += ["<h2>Statistics</h2>", as_table(head, rows)]
        shown = ordered[:MOST_PICTURES]
        parts += ["<h2>Distributions</h2>", as_picture(_histograms(shown, before, now))]
    write_html(path, f"Drift of {title}", parts)


def _histograms(names: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> Figure:
    """Histograms of each statistic: training images filled, served images as a line."""
    from matplotlib.figure import Figure

    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        old, new = (np.asarray(values, dtype=np.float64) for values in (before[name], now[name]))
        edges = np.histogram_bin_edges(np.concatenate([old, new]), BINS)
        styles: tuple[dict[str, Any], ...] = (
            {"color": "#9bb8d3", "label": "training"},
            {"color": "#b3261e", "histtype": "step", "linewidth": 1.5, "label": "served"},
        )
        for values, style in zip((old, new), styles, strict=True):
            axes.hist(values, edges, weights=np.full(len(values), 1 / len(values)), **style)
        axes.set_title(described(name), loc="left", fontsize=9)
        axes.tick_params(labelsize=7)
    panels[0].legend(fontsize=7, frameon=False)
    return figure

"""Scores of each volume by itself: Dice, HD95 and mean surface distance of its classes, in millimetres."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmodels.annotations import Annotation
from segmodels.files import parse_csv, reading
from segmodels.labels import LabelMap
from segmodels.metrics.surface import case_scores

TABLE = "per_case.csv"
SCORES = {
    "dice": "mean_dice_per_case",
    "hausdorff_95": "mean_hausdorff_95",
    "mean_surface_distance": "mean_surface_distance",
}
"""Column -> its mean over all cases and classes."""

Cases = dict[str, list[dict[str, Any]]]
"""Id of the volume -> a row for each class but the background: ``label`` and the columns of ``SCORES``."""


def rows_of(prediction: NDArray, annotation: Annotation, labels: LabelMap) -> list[dict[str, Any]]:
    """Rows of one volume, whose prediction is ``(D, H, W)``."""
    return case_scores(prediction, annotation.classes, labels.num_classes, labels.ignore_index, annotation.spacing)


def mean_scores(cases: Cases) -> dict[str, float]:
    """Means over cases and classes. A class that a case neither has nor is predicted to have does not count; one that
    was missed altogether, or found where it is not, has Dice 0 and does not count in distances. ``infinite_distances``
    is how many those are: with each further one the mean distances may fall, though the model is worse.
    """
    rows = [row for rows in cases.values() for row in rows]
    means = {"infinite_distances": float(sum(np.isinf(row["hausdorff_95"]) for row in rows))} if rows else {}
    for column, name in SCORES.items():
        values = np.array([row[column] for _, rows in sorted(cases.items()) for row in rows])
        if np.isfinite(values).any():
            means[name] = float(values[np.isfinite(values)].mean())
    return means


def write(cases: Cases, labels: LabelMap, folder: Path) -> None:
    """A row per case and class; a score is empty where it is undefined, ``inf`` where a class was missed altogether."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "label", "class", *SCORES])
        for name, rows in sorted(cases.items()):
            for row in rows:
                values = ["" if np.isnan(row[column]) else row[column] for column in SCORES]
                table.writerow([name, row["label"], labels.classes[row["label"]], *values])


def read(folder: Path) -> Cases:
    """The rows that ``write`` wrote; none if there is no file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / TABLE
    if not path.is_file():
        return {}
    cases: Cases = {}
    with reading(path, "evaluate"):
        for row in parse_csv(path.read_text(encoding="utf-8"), ("id", "label", *SCORES)):
            scores = {column: float(row[column] or "nan") for column in SCORES}
            cases.setdefault(row["id"], []).append({"label": int(row["label"]), **scores})
    return cases

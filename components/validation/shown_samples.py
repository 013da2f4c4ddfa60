"""The samples that data docs show: a contact sheet of each split, and those behind each finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa

from components.running.parallel import parallel_map
from components.validation.edges import Agreement, edge_agreement
from components.validation.object_facts import Oddity
from components.validation.sample_facts import SHOWN
from components.validation.views import by_hash, read_picture
from segmodels.data.layouts.splits import SPLITS
from segmodels.data.manifest import Dataset
from segmodels.data.sizes import size_in_words

if TYPE_CHECKING:
    import pandas as pd

    from components.validation.checks import Table
    from components.validation.great_expectations_suite import Finding

BEHIND = 6
"""Samples that are shown of a finding."""

ODDITIES: Mapping[str, Oddity] = {
    "objects_in_place": "misplaced",
    "objects_visible": "specks",
    "objects_distinct": "doubled",
}
"""Checks of objects, and what they are about."""


@dataclass(frozen=True)
class Shown:
    """A sample in the data docs.

    Attributes:
        caption: one line.
        picture: JPEG; None where the image cannot be read.
    """

    caption: str
    picture: bytes | None


def pair_agreements(gathered: pa.Table) -> dict[str, tuple[Agreement, list[int]]]:
    """Split -> the edge agreement of its pairs and their positions, of the splits with enough of them."""
    chosen = gathered.column("edges").is_valid().to_numpy()
    splits = gathered.column("split").to_numpy(zero_copy_only=False)
    found = {}
    for split in SPLITS:
        own = chosen & (splits == split)
        agreement = edge_agreement(gathered.column("edges").filter(pa.array(own)).to_pylist())
        if agreement is not None:
            found[split] = agreement, np.flatnonzero(own).tolist()
    return found


def contact_sheets(gathered: pa.Table, dataset: Dataset) -> dict[str, list[Shown]]:
    """Split -> its samples with pictures, ordered by a hash of their ids."""
    rows = gathered.select(["id", "size", "objects", "picture"])
    chosen = by_hash(dataset.samples(), SHOWN)
    return {
        split: [Shown(_caption(row), row["picture"]) for row in rows.take(chosen[split]).to_pylist() if row["picture"]]
        for split in SPLITS
    }


def _caption(row: Mapping[str, Any]) -> str:
    size = size_in_words(row["size"])
    return f"{row['id']}, {size}" + (f", {row['objects']} objects" if row["objects"] else "")


def samples_behind(
    findings: Sequence[Finding],
    tables: Mapping[Table, pd.DataFrame],
    pairs: Mapping[str, tuple[Agreement, list[int]]],
    dataset: Dataset,
    workers: int,
) -> dict[str, list[Shown]]:
    """Check -> at most ``BEHIND`` samples of the rows that failed.

    Args:
        workers: processes that draw the pictures; 0 means one per core.
    """
    place: dict[tuple[str | None, str], int] = {}
    for position, sample in enumerate(dataset.samples()):
        place.setdefault((sample.split, sample.id), position)
    behind = {
        finding.check.name: _behind(finding, tables, pairs, place)[:BEHIND] for finding in findings if finding.count
    }
    tasks = [(position, ODDITIES.get(check)) for check, samples in behind.items() for position, _ in samples]
    pictures = dict(zip(tasks, parallel_map(_draw, tasks, workers, _open, (dataset,)), strict=True)) if tasks else {}
    return {
        check: [Shown(caption, pictures[position, ODDITIES.get(check)]) for position, caption in samples]
        for check, samples in behind.items()
    }


def _behind(
    finding: Finding,
    tables: Mapping[Table, pd.DataFrame],
    pairs: Mapping[str, tuple[Agreement, list[int]]],
    place: Mapping[tuple[str | None, str], int],
) -> list[tuple[int, str]]:
    """Positions and captions."""
    check, samples = finding.check, tables["samples"]
    if check.detail == "unpaired":  # the pairs that agree least
        order = [pairs[row["split"]] for row in finding.rows]
        return [
            (positions[at], f"{samples['annotation'][positions[at]]}: edge agreement {agreement.each[at]:.2f}")
            for agreement, positions in order
            for at in agreement.least(-(-BEHIND // len(order)))
        ]
    if check.table != "samples":
        if check.detail == "split":
            return []  # a class that occurs nowhere has no sample
        void = np.flatnonzero(samples["void_share"] > 0).tolist() or np.flatnonzero(samples["annotation"].notna())
        return [(position, str(samples["annotation"][position])) for position in void[:BEHIND]]
    if not finding.rows:  # different values of a column: a sample of each
        column = str(check.rule.arguments["column"])
        first = np.flatnonzero(samples[column].notna() & ~samples[column].duplicated())[:BEHIND].tolist()
        return [(position, f"{samples['image'][position]} ({samples[column][position]})") for position in first]
    return [
        (place[row["split"], row["id"]], example)
        for row, example in zip(finding.rows[:BEHIND], finding.examples, strict=False)
    ]


_worker: dict[str, Any] = {}


def _open(dataset: Dataset) -> None:
    cv2.setNumThreads(1)
    _worker.update(dataset=dataset, samples=dataset.samples())


def _draw(task: tuple[int, Oddity | None]) -> bytes | None:
    position, oddity = task
    dataset: Dataset = _worker["dataset"]
    return read_picture(dataset.layout, _worker["samples"][position], dataset.labels, oddity)

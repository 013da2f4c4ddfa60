"""Open every sample, gather facts, check them; what is gravely wrong stops the pipeline."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.params.schema import ValidateParams
from components.running.atomic import written_folder
from components.running.wording import first_few
from components.validation.data_docs import make_offline, write_overview
from components.validation.duplicate_images import near_elsewhere, same_elsewhere
from components.validation.expectations import Finding, Table, run_checks
from components.validation.sample_facts import gather_facts
from segmodels.data.manifest import SPLITS, Dataset
from segmodels.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NAMED = 1000
"""Rows of a finding that the report names; all are in the facts."""


def validate(params: ValidateParams, dataset: Path, validation: Path) -> None:
    """Write ``facts.parquet`` (one row per sample), ``report.json`` and ``docs/index.html`` into the folder
    ``validation``.

    When a critical check fails, they go to a folder beside it, ``<validation>.failed``, for the user to look at, and
    ``validation`` is not there: no later step takes it for a success.

    Args:
        dataset: folder that ingest wrote.
        validation: output folder.

    Raises:
        InputError: critical checks failed; names files and what to do, and the page with all of it.
    """
    opened = Dataset.open(dataset)
    facts = _with_duplicates(gather_facts(dataset, params.workers), params)
    classes = _class_counts(facts, opened)
    failed = validation.with_name(f"{validation.name}.failed")
    shutil.rmtree(failed, ignore_errors=True)
    with written_folder(failed) as folder:
        pages = folder / "docs" / "great_expectations"
        findings = run_checks(
            tables(facts, classes, opened), params, f"dataset {opened.digest}", pages, labelled=opened.layout.labelled
        )
        report = _report(findings, facts, classes, opened)
        make_offline(pages)
        write_overview(report, folder / "docs", pages)
        pq.write_table(facts, folder / "facts.parquet")
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(validation, ignore_errors=True)
    critical = [finding for finding in findings if finding.count and finding.check.severity == "critical"]
    if critical:
        raise InputError(f"the dataset has {_sentence(critical, facts)}; {failed / 'docs' / 'index.html'} shows all")
    failed.replace(validation)
    _print_warnings([finding for finding in findings if finding.count], len(findings), facts.num_rows)


def tables(
    facts: pa.Table, classes: dict[str, dict[str, dict[str, int]]], dataset: Dataset
) -> dict[Table, pd.DataFrame]:
    """What the checks are run on: a row per sample, and a row per split and class."""
    import pandas as pd

    text = [
        "id",
        "split",
        "image",
        "mask",
        "image_error",
        "mask_error",
        "image_md5",
        "mask_md5",
        "also_in",
        "near_duplicate_of",
    ]
    columns: dict[str, Any] = {name: facts.column(name).to_pylist() for name in text}
    for part in ("image", "mask"):
        columns[f"ingested_{part}_md5"] = dataset.table.column(f"{part}_md5").to_pylist()
    columns["size"], columns["mask_size"] = _sizes(facts, "width", "height"), _sizes(facts, "mask_width", "mask_height")
    columns["unknown_labels"] = [
        ", ".join(map(str, labels)) if labels else None for labels in facts.column("unknown_labels").to_pylist()
    ]
    samples = pd.DataFrame(columns, dtype=object)
    samples["void_share"] = facts.column("void_share").to_numpy()
    samples["shorter_side"] = np.fmin(facts.column("height").to_numpy(), facts.column("width").to_numpy())
    rows = [
        {"split": split, "class": name, **counts}
        for split, by_class in classes.items()
        for name, counts in by_class.items()
    ]
    return {"samples": samples, "classes": pd.DataFrame(rows)}


def _with_duplicates(facts: pa.Table, params: ValidateParams) -> pa.Table:
    """The facts with ``also_in`` and ``near_duplicate_of``: an equal or similar image in another split, if any."""
    split, image = (facts.column(name).to_numpy(zero_copy_only=False) for name in ("split", "image"))
    md5 = facts.column("image_md5").to_numpy(zero_copy_only=False)
    equal = same_elsewhere(md5, split)
    hashes = facts.column("image_hash")
    hashed = np.flatnonzero(hashes.is_valid().to_numpy())
    _, first = np.unique(md5[hashed].astype(str), return_index=True)
    distinct = hashed[np.sort(first)]  # equal images are told of already
    partner = near_elsewhere(hashes.take(distinct).to_numpy(), split[distinct], params.near_duplicate_distance)
    similar = np.full(len(split), -1)
    similar[distinct] = np.where(partner < 0, -1, distinct[partner])
    for name, other in (("also_in", equal), ("near_duplicate_of", similar)):
        places = [None if place < 0 else f"{split[place]}: {image[place]}" for place in other]
        facts = facts.append_column(name, pa.array(places, pa.string()))
    return facts


def _class_counts(facts: pa.Table, dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Split -> class -> pixels, and samples that hold it."""
    number = dataset.labels.num_classes
    pixels, samples = ({split: np.zeros(number, np.int64) for split in SPLITS} for _ in range(2))
    for batch in facts.select(["split", "class_pixels"]).to_batches():
        readable = batch.filter(batch.column("class_pixels").is_valid())
        counts = readable.column("class_pixels").flatten().to_numpy().reshape(-1, number)
        split_of = readable.column("split").to_numpy(zero_copy_only=False)
        for split in SPLITS:
            pixels[split] += counts[split_of == split].sum(axis=0)
            samples[split] += (counts[split_of == split] > 0).sum(axis=0)
    return {
        split: {
            name: {"pixels": int(pixels[split][c]), "samples": int(samples[split][c])}
            for c, name in enumerate(dataset.labels.classes)
        }
        for split in SPLITS
    }


def _report(
    findings: list[Finding], facts: pa.Table, classes: dict[str, dict[str, dict[str, int]]], dataset: Dataset
) -> dict[str, Any]:
    entries = [
        {
            "check": finding.check.name,
            "severity": finding.check.severity,
            "expected": finding.check.expected,
            "count": finding.count,
            "problem": finding.check.problem,
            "advice": finding.check.advice,
            "examples": finding.examples[:NAMED],
        }
        for finding in findings
    ]
    wrong = [entry for entry in entries if entry["count"]]
    split = facts.column("split").to_numpy(zero_copy_only=False)
    void = facts.column("void_share").to_numpy()
    return {
        "success": all(entry["severity"] != "critical" for entry in wrong),
        "digest": dataset.digest,
        "revision": dataset.revision,
        "source": dict(dataset.source),
        "layout": dataset.layout.name,
        "samples": {name: int((split == name).sum()) for name in SPLITS},
        "critical": [entry for entry in wrong if entry["severity"] == "critical"],
        "warnings": [entry for entry in wrong if entry["severity"] == "warning"],
        "sizes": _most_common(_sizes(facts, "width", "height")),
        "image_formats": _most_common(_formats(facts, "image")),
        "mask_formats": _most_common(_formats(facts, "mask")),
        "void_share": {name: _mean(void[split == name]) if dataset.layout.labelled else 1.0 for name in SPLITS},
        "classes": classes,
        "checks": entries,
    }


def _sizes(facts: pa.Table, width: str, height: str) -> list[str | None]:
    pairs = zip(facts.column(width).to_pylist(), facts.column(height).to_pylist(), strict=True)
    return [None if w is None else f"{w}x{h}" for w, h in pairs]


def _formats(facts: pa.Table, part: str) -> list[str | None]:
    pairs = zip(facts.column(f"{part}_mode").to_pylist(), facts.column(f"{part}_bits").to_pylist(), strict=True)
    return [None if mode is None else f"{mode}, {bits} bits" for mode, bits in pairs]


def _most_common(values: list[str | None], limit: int = 20) -> dict[str, int]:
    counts = Counter(value for value in values if value is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def _sentence(critical: list[Finding], facts: pa.Table) -> str:
    """What is wrong, where, and what to do. Of files that cannot be read, the first one's own story."""
    parts = []
    for finding in critical:
        check = finding.check
        advice = check.advice
        if check.name in ("image_readable", "mask_readable"):
            advice = next(filter(None, facts.column(f"{check.about}_error").to_pylist()))
        parts.append(f"{check.problem}, {first_few(finding.examples)}: {advice}")
    return "; ".join(parts)


def _print_warnings(warnings: list[Finding], checks: int, samples: int) -> None:
    from rich.console import Console
    from rich.table import Table as PrintedTable

    console = Console()
    console.print(f"{samples:,} samples passed {checks - len(warnings)} of {checks} checks", highlight=False)
    if not warnings:
        return
    printed = PrintedTable("warning", "for example", "what to do")
    for finding in warnings:
        printed.add_row(
            f"{finding.check.problem}: {finding.count:,}", first_few(finding.examples, 3), finding.check.advice
        )
    console.print(printed)

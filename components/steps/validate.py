"""Open every sample, gather facts and check them; a critical finding stops the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import FACTS, OVERVIEW, REPORT
from components.datasets.dataset_files import open_dataset
from components.params.schema import ValidateParams
from components.running.atomic import written_folder
from components.running.wording import first_few
from components.validation.checks import checks
from components.validation.data_docs import make_offline, write_overview
from components.validation.duplicate_images import with_duplicates
from components.validation.great_expectations_suite import Finding, run_checks
from components.validation.report import annotated, class_counts, make_report
from components.validation.sample_facts import gather_facts
from components.validation.tables import tables
from segmodels.errors import InputError


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
    opened = open_dataset(dataset)
    facts = with_duplicates(gather_facts(opened, params.workers), params.near_duplicate_distance)
    classes = class_counts(facts, opened)
    failed = validation.with_name(f"{validation.name}.failed")
    shutil.rmtree(failed, ignore_errors=True)
    with written_folder(failed) as folder:
        pages = folder / "docs" / "great_expectations"
        expected = checks(params, annotated(facts))
        rows = tables(facts, classes, opened.table, opened.layout.assumed_void)
        findings = run_checks(rows, expected, f"dataset {opened.digest}", pages)
        report = make_report(findings, facts, classes, opened)
        make_offline(pages)
        write_overview(report, folder / "docs", pages)
        pq.write_table(facts, FACTS.path(folder))
        REPORT.write(folder, report)
    shutil.rmtree(validation, ignore_errors=True)
    critical = [finding for finding in findings if finding.count and finding.check.severity == "critical"]
    if critical:
        raise InputError(f"the dataset has {_sentence(critical, facts)}; {OVERVIEW.path(failed)} shows all")
    failed.replace(validation)
    _print_warnings([finding for finding in findings if finding.count], len(findings), facts.num_rows)


def _sentence(critical: list[Finding], facts: pa.Table) -> str:
    """What is wrong, where, and what to do. Of files that cannot be read, the first one's own story."""
    parts = []
    for finding in critical:
        check = finding.check
        advice = check.advice
        if check.name in ("image_readable", "annotation_readable"):
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

"""Open every sample, gather facts and check them; a critical finding stops the pipeline."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import FACTS, OVERVIEW, PLACE_OF_FACTS, REPORT, check_replaceable
from components.datasets.dataset_files import open_dataset
from components.params.schema import ValidateParams
from components.running.atomic import written_folder
from components.running.parts import in_order, share
from components.running.wording import first_few_alike
from components.validation.checks import checks
from components.validation.data_docs import make_offline, write_overview
from components.validation.duplicate_images import with_duplicates
from components.validation.great_expectations_suite import Finding, import_packages, run_checks
from components.validation.report import annotated, class_counts, make_report
from components.validation.sample_facts import FACTS as SAMPLE_FACTS
from components.validation.sample_facts import GATHERED, gather_facts
from components.validation.shown_samples import contact_sheets, pair_agreements, samples_behind
from components.validation.tables import tables
from segmodels.data.manifest import Dataset
from segmodels.errors import InputError
from segmodels.machine import check_folder

IDENTITY = pa.schema([SAMPLE_FACTS.field("split"), SAMPLE_FACTS.field("id")])
"""Columns that name a sample."""


def validate(params: ValidateParams, dataset: Path, validation: Path) -> None:
    """Write ``facts.parquet`` (one row per sample), ``report.json`` and ``docs/index.html`` into the folder
    ``validation``.

    When a critical check fails, they go to a folder beside it, ``<validation>.failed``, for the user to look at, and
    ``validation`` is not there: no later step takes it for a success.

    Args:
        dataset: folder that ingest wrote.
        validation: output folder.

    Raises:
        InputError: critical checks failed; names files and what to do, and the page with all of it. Or one of the two
            folders cannot be written, or holds something else, which would be deleted.
    """
    check_folder(_failed(validation), replaced=True)
    check_replaceable("validate", _failed(validation))
    opened = open_dataset(dataset)
    with ThreadPoolExecutor(1) as beside:  # importing Great Expectations takes as long as opening thousands of samples
        imported = beside.submit(import_packages)
        facts = gather_facts(opened, params.workers)
        imported.result()
    _check(params, opened, facts, validation)


def validate_part(params: ValidateParams, dataset: Path, part: int, parts: int, facts: Path) -> None:
    """Write ``facts.parquet`` with the facts of one part of the samples into the folder ``facts``.

    Args:
        dataset: folder that ingest wrote.
        part: number of the part, from 0; the parts are ranges of the manifest.
        parts: number of parts.
        facts: output folder.
    """
    opened = open_dataset(dataset)
    gathered = gather_facts(opened, params.workers, share(opened.table.num_rows, part, parts))
    with written_folder(facts) as folder:
        pq.write_table(gathered, FACTS.path(folder))
        PLACE_OF_FACTS.write(folder, {"part": part, "parts": parts, "digest": opened.digest})
    print(f"part {part} of {parts}: {gathered.num_rows} of {opened.table.num_rows} samples")


def validate_merge(params: ValidateParams, dataset: Path, validation: Path, facts: tuple[Path, ...] = ()) -> None:
    """Check the facts of all parts together, and write what ``validate`` writes. Opens only the samples that the data
    docs show behind findings, a bounded number.

    Args:
        dataset: folder that ingest wrote.
        validation: output folder.
        facts: folders that validate-part wrote, in any order.

    Raises:
        InputError: as ``validate``, or a part is missing, damaged or of another dataset.
    """
    opened = open_dataset(dataset)
    gathered = pa.concat_tables([FACTS.read(folder, GATHERED) for folder in in_order(facts, PLACE_OF_FACTS)])
    if not gathered.select(["split", "id"]).equals(opened.table.select(["split", "id"]).cast(IDENTITY)):
        raise InputError(
            f"the parts' facts are of {gathered.num_rows} samples that are not those of dataset {dataset}"
            f" ({opened.table.num_rows} samples): run validate-part for every part again"
        )
    _check(params, opened, gathered, validation)


def _check(params: ValidateParams, opened: Dataset, gathered: pa.Table, validation: Path) -> None:
    """Check the facts of all samples and write the output. Raises InputError: critical checks failed."""
    failed = _failed(validation)
    validation = _behind_link(validation)
    for folder in (validation, failed):
        check_replaceable("validate", folder)
    # one chunk, so that the bytes of the file do not depend on how the facts were gathered
    facts = with_duplicates(gathered.select(SAMPLE_FACTS.names), params.near_duplicate_distance).combine_chunks()
    classes = class_counts(facts, opened)
    pairs = pair_agreements(gathered)
    agreements = {split: agreement for split, (agreement, _) in pairs.items()}
    shutil.rmtree(failed, ignore_errors=True)
    with written_folder(failed) as folder:
        pages = folder / "docs" / "great_expectations"
        expected = checks(params, annotated(facts))
        rows = tables(facts, classes, pairs, opened)
        findings = run_checks(rows, expected, f"dataset {opened.digest}", pages)
        report = make_report(findings, facts, classes, agreements, opened)
        make_offline(pages)
        behind = samples_behind(findings, rows, pairs, opened, params.workers)
        write_overview(report, contact_sheets(gathered, opened), behind, opened.labels, folder / "docs", pages)
        pq.write_table(facts, FACTS.path(folder))
        REPORT.write(folder, report)
    shutil.rmtree(validation, ignore_errors=True)
    critical = [finding for finding in findings if finding.count and finding.check.severity == "critical"]
    if critical:
        raise InputError(f"the dataset has {_sentence(critical, facts)}; {OVERVIEW.path(failed)} shows all")
    failed.replace(validation)
    _print_warnings([finding for finding in findings if finding.count], len(findings), facts.num_rows)


def _failed(validation: Path) -> Path:
    """The folder for what a failed check leaves."""
    validation = _behind_link(validation)
    return validation.with_name(f"{validation.name}.failed")


def _behind_link(folder: Path) -> Path:
    """Of a link to a folder that folder, perhaps on another disk; a rename would replace the link."""
    return folder.resolve() if folder.is_symlink() else folder


def _sentence(critical: list[Finding], facts: pa.Table) -> str:
    """Names the problems, their samples and the next action; for unreadable files the first file's own error."""
    parts = []
    for finding in critical:
        check = finding.check
        advice = check.advice
        if check.name in ("image_readable", "annotation_readable"):
            advice = next(filter(None, facts.column(f"{check.about}_error").to_pylist()))
        parts.append(f"{check.problem}, {first_few_alike(finding.examples)}: {advice}")
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
            f"{finding.check.problem}: {finding.count:,}", first_few_alike(finding.examples, 3), finding.check.advice
        )
    console.print(printed)

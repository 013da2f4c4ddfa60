"""Runs the checks as Great Expectations suites. The only file that knows Great Expectations."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validation.checks import NAMES, SUITES, Check, Table

if TYPE_CHECKING:
    import pandas as pd

NO_TIME = datetime.datetime.fromtimestamp(0, datetime.UTC)
"""Time of all runs: it is part of the pages' paths, and the same dataset gives the same bytes."""


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        count: rows that failed; for a check of a column as a whole, its different values.
        examples: name of each row that failed, with the check's detail.
        rows: the columns that name it.
    """

    check: Check
    count: int
    examples: list[str]
    rows: list[Mapping[str, Any]] = field(default_factory=list)


def import_packages() -> None:
    """Import what ``run_checks`` needs, which takes seconds."""
    import great_expectations.expectations  # noqa: F401


@contextmanager
def _in_utc() -> Iterator[None]:
    """Great Expectations writes times of the machine's zone, which would make other pages elsewhere, and fails where
    ``TZ`` names a zone that the C library alone reads, such as ``CET-1CEST``.
    """
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        yield
    finally:
        if zone is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = zone
        time.tzset()


@_in_utc()
def run_checks(
    tables: Mapping[Table, pd.DataFrame], checks: Sequence[Check], run_name: str, pages: Path
) -> list[Finding]:
    """Run the checks and write Great Expectations' own pages about them into the folder ``pages``.

    Args:
        tables: columns as in ``tables.tables``.
        run_name: title of the run on the pages.
    """
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_or_update_pandas("dataset")
    context.add_data_docs_site("docs", _site(pages))  # type: ignore[arg-type]  # a dict will do
    when = RunIdentifier(run_name=run_name, run_time=NO_TIME)
    findings = {}
    for table, frame in tables.items():
        own = {check.name: check for check in checks if check.table == table}
        if not own:
            continue
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add_or_update(
            gx.ExpectationSuite(name=SUITES[table], expectations=[_expectation(check) for check in own.values()])
        )
        definition = context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=SUITES[table], data=batch, suite=suite)
        )
        rows = {
            "result_format": "COMPLETE",
            "unexpected_index_column_names": NAMES[table],
            "return_unexpected_index_query": False,
        }
        checkpoint = context.checkpoints.add_or_update(
            gx.Checkpoint(name=table, validation_definitions=[definition], result_format=rows)
        )
        outcome = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=when)
        for result in next(iter(outcome.run_results.values())).results:
            name = result.expectation_config.meta["check"]  # type: ignore[union-attr]  # as _expectation wrote it
            findings[name] = _finding(own[name], result)
    site_builder = logging.getLogger("great_expectations.render.renderer.site_builder")
    site_builder.addFilter(_raised)
    try:
        context.build_data_docs(site_names=["docs"])
    finally:
        site_builder.removeFilter(_raised)
    return [findings[check.name] for check in checks]


def _raised(_: logging.LogRecord) -> bool:
    """Raises the error of a page that cannot be written, which Great Expectations would log and go on without."""
    if (error := sys.exc_info()[1]) is not None:
        raise error
    return True


def _expectation(check: Check) -> Any:
    import great_expectations.expectations as catalogue

    words = {
        "description": check.expected,
        "notes": [f"A {check.severity} check. What to do about {check.problem}: {check.advice}."],
    }
    return getattr(catalogue, check.rule.expectation)(
        **check.rule.arguments, **words, severity=check.severity, meta={"check": check.name}
    )


def _finding(check: Check, result: Any) -> Finding:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"check {check.name}: {result.exception_info['exception_message']}")
    if result.success:
        return Finding(check, 0, [])
    if "unexpected_index_list" not in result.result:  # a check of a column as a whole
        return Finding(check, result.result["observed_value"], [])
    rows = result.result["unexpected_index_list"]
    return Finding(check, result.result["unexpected_count"], [_name(check, row) for row in rows], rows)


def _name(check: Check, row: Mapping[str, Any]) -> str:
    value = None if check.detail is None else row[check.detail]
    if value in (None, ""):
        return str(row[check.about])
    return f"{row[check.about]} ({value:.3g})" if isinstance(value, float) else f"{row[check.about]} ({value})"


def _site(pages: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages.resolve())},
    }

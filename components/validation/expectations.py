"""What is expected of a dataset, as Great Expectations suites. The only file that knows Great Expectations."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.params.schema import ValidateParams

if TYPE_CHECKING:
    import pandas as pd

Table = Literal["samples", "classes"]

SUITES: Mapping[Table, str] = {"samples": "Images and masks", "classes": "Classes in each split"}

NAMES: Mapping[Table, list[str]] = {"samples": ["split", "image", "mask"], "classes": ["split", "class"]}
"""Columns that name a row."""


@dataclass(frozen=True)
class Check:
    """One expectation, and how to speak about it.

    Attributes:
        name: key in the report.
        severity: a critical failure stops the pipeline.
        table: whose rows are checked.
        expectation: class in ``great_expectations.expectations``, with its ``arguments``.
        expected: what should be, a sentence.
        problem: what the rows that fail are.
        advice: what to do about them.
        about: column that names a row that fails.
        detail: column that tells more about it.
    """

    name: str
    severity: Literal["critical", "warning"]
    table: Table
    expectation: str
    arguments: Mapping[str, Any]
    expected: str
    problem: str
    advice: str
    about: str = "image"
    detail: str | None = None


@dataclass(frozen=True)
class Finding:
    """How a check went: ``count`` rows failed, each is named in ``examples``."""

    check: Check
    count: int
    examples: list[str]


OF_MASKS = {"mask", "mask_error", "mask_size", "unknown_labels", "void_share", "mask_md5", "pixels"}
"""Columns that tell of masks."""


def checks(params: ValidateParams, labelled: bool) -> list[Check]:
    """All that is expected, the gravest first; of images alone where the dataset is not ``labelled``."""
    return [
        check for check in _all_checks(params) if labelled or OF_MASKS.isdisjoint(map(str, check.arguments.values()))
    ]


def _all_checks(params: ValidateParams) -> list[Check]:
    known = {"ignore_row_if": "either_value_is_missing"}
    complete = {"ignore_row_if": "any_value_is_missing"}
    return [
        Check(
            name="image_readable",
            severity="critical",
            table="samples",
            expectation="ExpectColumnValuesToBeNull",
            arguments={"column": "image_error"},
            expected="Every image can be read.",
            problem="images that cannot be read",
            advice="replace or remove them",
        ),
        Check(
            name="mask_present",
            severity="critical",
            table="samples",
            expectation="ExpectColumnValuesToNotBeNull",
            arguments={"column": "mask"},
            expected="Every image has a mask.",
            problem="images without a mask",
            advice="add the masks or remove the images",
        ),
        Check(
            name="mask_readable",
            severity="critical",
            table="samples",
            expectation="ExpectColumnValuesToBeNull",
            arguments={"column": "mask_error"},
            expected="Every mask can be read, and its values are meant as labels.",
            problem="masks that cannot be read",
            advice="replace or remove them",
            about="mask",
        ),
        Check(
            name="same_size",
            severity="critical",
            table="samples",
            expectation="ExpectColumnPairValuesToBeEqual",
            arguments={"column_A": "size", "column_B": "mask_size", **known},
            expected="Every mask has the size of its image.",
            problem="masks of another size than their image",
            advice="export them again at the size of the image",
            about="mask",
            detail="mask_size",
        ),
        Check(
            name="labels_known",
            severity="critical",
            table="samples",
            expectation="ExpectColumnValuesToBeNull",
            arguments={"column": "unknown_labels"},
            expected="Masks hold only labels that the dataset's classes name.",
            problem="masks with unknown labels",
            advice="correct them or add the labels to the dataset's classes",
            about="mask",
            detail="unknown_labels",
        ),
        Check(
            name="something_labelled",
            severity="critical",
            table="samples",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "void_share", "max_value": 1, "strict_max": True},
            expected="No mask is void everywhere.",
            problem="masks that are void everywhere",
            advice="label them or remove the samples",
            about="mask",
        ),
        Check(
            name="large_enough",
            severity="critical",
            table="samples",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "shorter_side", "min_value": params.min_side},
            expected=f"No side of an image is shorter than {params.min_side} pixels (validate.min_side).",
            problem=f"images with a side shorter than {params.min_side} pixels",
            advice="remove them or lower validate.min_side",
            detail="shorter_side",
        ),
        Check(
            name="ids_distinct",
            severity="critical",
            table="samples",
            expectation="ExpectCompoundColumnsToBeUnique",
            arguments={"column_list": ["split", "id"]},
            expected="No two samples of a split have the same id.",
            problem="samples with the id of another one",
            advice="rename them",
        ),
        Check(
            name="images_as_ingested",
            severity="critical",
            table="samples",
            expectation="ExpectColumnPairValuesToBeEqual",
            arguments={"column_A": "image_md5", "column_B": "ingested_image_md5", **known},
            expected="No image has changed since the step ingest.",
            problem="images that have changed since the step ingest",
            advice="run it again",
        ),
        Check(
            name="masks_as_ingested",
            severity="critical",
            table="samples",
            expectation="ExpectColumnPairValuesToBeEqual",
            arguments={"column_A": "mask_md5", "column_B": "ingested_mask_md5", **known},
            expected="No mask has changed since the step ingest.",
            problem="masks that have changed since the step ingest",
            advice="run it again",
            about="mask",
        ),
        Check(
            name="in_one_split",
            severity="warning",
            table="samples",
            expectation="ExpectColumnValuesToBeNull",
            arguments={"column": "also_in"},
            expected="No image is in two splits.",
            problem="images that are in two splits",
            advice="remove them from one, the measured quality is too good otherwise",
            detail="also_in",
        ),
        Check(
            name="unlike_other_splits",
            severity="warning",
            table="samples",
            expectation="ExpectColumnValuesToBeNull",
            arguments={"column": "near_duplicate_of"},
            expected=(
                "No image looks like one of another split (perceptual hashes differ in more than"
                f" {params.near_duplicate_distance} of 64 bits)."
            ),
            problem="images that look like one of another split",
            advice="look at the pairs; if they show the same scene, put them into one group",
            detail="near_duplicate_of",
        ),
        Check(
            name="images_distinct",
            severity="warning",
            table="samples",
            expectation="ExpectCompoundColumnsToBeUnique",
            arguments={"column_list": ["split", "image_md5"], **complete},
            expected="No image is twice in a split.",
            problem="images that are more than once in their split",
            advice="remove the copies",
        ),
        Check(
            name="mostly_labelled",
            severity="warning",
            table="samples",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "void_share", "max_value": params.max_void_share},
            expected=(
                f"No mask is void in more than {params.max_void_share:.0%} of its pixels (validate.max_void_share)."
            ),
            problem=f"masks that are void in more than {params.max_void_share:.0%} of their pixels",
            advice="see whether they should be labelled or removed",
            about="mask",
            detail="void_share",
        ),
        Check(
            name="one_size",
            severity="warning",
            table="samples",
            expectation="ExpectColumnUniqueValueCountToBeBetween",
            arguments={"column": "size", "max_value": 1},
            expected="All images have one size.",
            problem="different sizes of images",
            advice="set train.augment.crop, so that images can be batched",
        ),
        Check(
            name="classes_occur",
            severity="warning",
            table="classes",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "pixels", "min_value": 1},
            expected="Every class occurs in every split.",
            problem="classes that never occur in a split",
            advice="they cannot be learnt or measured there; split again or drop the class",
            about="class",
            detail="split",
        ),
    ]


def run_checks(
    tables: Mapping[Table, pd.DataFrame], params: ValidateParams, run_name: str, pages: Path, *, labelled: bool
) -> list[Finding]:
    """Run all checks and write Great Expectations' own pages about them into the folder ``pages``.

    Args:
        tables: columns as in ``validate.tables``.
        run_name: title of the run on the pages.
        labelled: whether the dataset has masks.
    """
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_or_update_pandas("dataset")
    context.add_data_docs_site("docs", _site(pages))  # type: ignore[arg-type]
    when = RunIdentifier(run_name=run_name, run_time=datetime.datetime.now(datetime.UTC))
    findings = {}
    expected = checks(params, labelled)
    for table, frame in tables.items():
        own = {check.name: check for check in expected if check.table == table}
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
            name = result.expectation_config.meta["check"]  # type: ignore[union-attr]
            findings[name] = _finding(own[name], result)
    context.build_data_docs(site_names=["docs"])
    return [findings[check.name] for check in expected]


def _expectation(check: Check) -> Any:
    import great_expectations.expectations as catalogue

    words = {
        "description": check.expected,
        "notes": [f"A {check.severity} check. What to do about {check.problem}: {check.advice}."],
    }
    return getattr(catalogue, check.expectation)(
        **check.arguments, **words, severity=check.severity, meta={"check": check.name}
    )


def _finding(check: Check, result: Any) -> Finding:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"check {check.name}: {result.exception_info['exception_message']}")
    if result.success:
        return Finding(check, 0, [])
    if "unexpected_index_list" not in result.result:  # a check of a column as a whole
        return Finding(check, result.result["observed_value"], [])
    return Finding(
        check, result.result["unexpected_count"], [_name(check, row) for row in result.result["unexpected_index_list"]]
    )


def _name(check: Check, row: Mapping[str, Any]) -> str:
    if check.detail is None:
        return str(row[check.about])
    value = row[check.detail]
    return f"{row[check.about]} ({value:.3g})" if isinstance(value, float) else f"{row[check.about]} ({value})"


def _site(pages: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages.resolve())},
    }

"""The findings of a validation as one JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.validation.edges import Agreement
from segmodels.data.image_form import ImageForm, common_form
from segmodels.data.layouts.splits import SPLITS
from segmodels.data.manifest import Dataset
from segmodels.data.sizes import size_in_words

if TYPE_CHECKING:
    from components.validation.great_expectations_suite import Finding

ClassCounts = dict[str, dict[str, dict[str, int]]]
"""Split -> class -> pixels, and samples that hold it."""

NAMED = 1000
"""Rows of a finding that the report names; all are in the facts."""


def make_report(
    findings: Sequence[Finding],
    facts: pa.Table,
    classes: ClassCounts,
    pairs: Mapping[str, Agreement],
    dataset: Dataset,
) -> dict[str, Any]:
    """The document. Its ``form`` is the one that preprocess converts all images to; null: there is none."""
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
    objects = np.array([count or 0 for count in facts.column("objects").to_pylist()])
    sizes = sizes_of(facts, "size")
    form = common_form(form for form in forms_of(facts) if form is not None)
    return {
        "success": all(entry["severity"] != "critical" for entry in wrong),
        "digest": dataset.digest,
        "revision": dataset.revision,
        "source": dict(dataset.source),
        "layout": dataset.layout.name,
        "samples": {name: int((split == name).sum()) for name in SPLITS},
        "objects": {name: int(objects[split == name].sum()) for name in SPLITS},
        "critical": [entry for entry in wrong if entry["severity"] == "critical"],
        "warnings": [entry for entry in wrong if entry["severity"] == "warning"],
        "sizes": _most_common(sizes),
        "sizes_of_splits": {
            name: _most_common([size for size, own in zip(sizes, split, strict=True) if own == name]) for name in SPLITS
        },
        "form": form and {"dtype": form.dtype.name, "channels": form.channels, "spatial_dims": form.spatial_dims},
        "image_formats": _most_common(_formats(facts, "image")),
        "annotation_formats": _most_common(_formats(facts, "annotation")),
        "edge_agreement": {
            name: {"pairs": len(found.each), "mean": round(found.mean, 3), "shuffled": round(found.shuffled, 3)}
            for name, found in pairs.items()
        },
        "void_share": {name: _void_share(void[split == name], annotated(facts)) for name in SPLITS},
        "classes": classes,
        "checks": entries,
    }


def annotated(facts: pa.Table) -> bool:
    """Whether any sample is annotated."""
    return facts.column("annotation").null_count < facts.num_rows


def class_counts(facts: pa.Table, dataset: Dataset) -> ClassCounts:
    """Counts of all samples whose annotation could be read."""
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


def sizes_of(facts: pa.Table, column: str) -> list[str | None]:
    """``WIDTHxHEIGHT`` of each sample; volumes end with their depth. None where it is not known."""
    return [None if size is None else size_in_words(size) for size in facts.column(column).to_pylist()]


def forms_of(facts: pa.Table) -> list[ImageForm | None]:
    """Form of the image of each sample, None where it could not be read."""
    columns = (facts.column(name).to_pylist() for name in ("dtype", "channels", "size"))
    return [
        None if dtype is None else ImageForm(np.dtype(dtype), channels, len(size))
        for dtype, channels, size in zip(*columns, strict=True)
    ]


def _formats(facts: pa.Table, part: str) -> list[str | None]:
    pairs = zip(facts.column(f"{part}_mode").to_pylist(), facts.column(f"{part}_bits").to_pylist(), strict=True)
    return [None if mode is None else f"{mode}, {bits} bits" for mode, bits in pairs]


def _most_common(values: list[str | None], limit: int = 20) -> dict[str, int]:
    counts = Counter(value for value in values if value is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _void_share(values: NDArray, annotated: bool) -> float:
    if not annotated:
        return 1.0
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0

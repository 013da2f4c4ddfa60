"""The manifest of a dataset: one row per sample, and the facts that all samples share.

A dataset folder holds ``manifest.parquet`` (columns below) and ``dataset.json`` (layout, root, labels, source,
revision, digest, samples per split). Both carry the digest. The images and masks themselves lie under ``root``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segmodels.data.layouts import Layout, Sample, open_layout
from segmodels.data.layouts.splits import SPLITS
from segmodels.errors import InputError
from segmodels.files import DATASET, MANIFEST, read_json, read_parquet, reading
from segmodels.labels import LabelMap

FACTS = {
    "layout": str,
    "root": str,
    "labels": object,
    "source": {str: object},
    "revision": (str, None),
    "digest": str,
    "samples": {str: int},
}
"""Shape of dataset.json."""

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),  # relative to the root
        pa.field("files", pa.list_(pa.string()), nullable=False),  # all others that it is read from, annotation first
        pa.field("image_md5", pa.string(), nullable=False),
        pa.field("md5s", pa.list_(pa.string()), nullable=False),  # of the files
        pa.field("group", pa.string(), nullable=False),
        pa.field("image_label", pa.int32()),  # class of the whole image
    ]
)

DIGEST = b"segmodels.digest"
"""Key in the manifest's metadata."""


@dataclass(frozen=True)
class Dataset:
    """A dataset at one revision, opened from its folder.

    Attributes:
        layout: reads the samples under ``root``.
        labels: classes, palette, source id -> train id.
        source: where the dataset came from, as ingest recorded it.
        revision: commit or tag of a versioned source, else None.
        digest: md5 of the data directory as DVC computes it, ``<md5>.dir``.
        table: the manifest, schema ``MANIFEST_SCHEMA``.
    """

    layout: Layout
    labels: LabelMap
    source: Mapping[str, Any]
    revision: str | None
    digest: str
    table: pa.Table

    @classmethod
    def open(cls, folder: str | Path, root: str | Path | None = None) -> Dataset:
        """Open a folder that ``write_dataset`` wrote.

        Args:
            root: folder of the data, where it is not the one on record.

        Raises:
            InputError: a file is missing or broken, both files belong to different datasets, or the folder of the data
                is not there.
        """
        folder = Path(folder)
        facts = read_json(folder / DATASET, "ingest", FACTS)
        with reading(folder / DATASET, "ingest"):
            labels = LabelMap.from_dict(facts["labels"])
        name, root = facts["layout"], folder / facts["root"] if root is None else Path(root)
        source, revision, digest = facts["source"], facts["revision"], facts["digest"]
        table = read_parquet(folder / MANIFEST, "ingest")
        with reading(folder / MANIFEST, "ingest"):
            written = (table.schema.metadata or {}).get(DIGEST, digest.encode()).decode()
            table = table.select(MANIFEST_SCHEMA.names).cast(MANIFEST_SCHEMA)
        if written != digest:
            raise InputError(
                f"dataset folder {folder} has a manifest.parquet of dataset {written} and a dataset.json of {digest}:"
                " run the step ingest again"
            )
        layout = open_layout(name, root, facts.get("classes"))
        if layout.labels != labels:
            raise InputError(
                f"the classes of dataset {root} have changed since it was ingested: run the step ingest again"
            )
        return cls(layout, labels, source, revision, digest, table)

    @cached_property
    def _samples(self) -> tuple[Sample, ...]:
        rows = self.table.select(["id", "split", "image", "files", "group", "image_label"]).to_pylist()
        return tuple(Sample(**row | {"files": tuple(row["files"])}) for row in rows)

    def samples(self, split: str | None = None) -> tuple[Sample, ...]:
        """The samples of one split, or all, in the manifest's order. All cost nothing after the first call."""
        if split is None:
            return self._samples
        return tuple(sample for sample in self._samples if sample.split == split)


def manifest_row(sample: Sample, md5s: Mapping[str, str]) -> dict[str, Any]:
    """The row of a sample.

    Args:
        md5s: path relative to the root -> md5, of all files of the sample.
    """
    return {
        "id": sample.id,
        "split": sample.split,
        "image": sample.image,
        "files": list(sample.files),
        "image_md5": md5s[sample.image],
        "md5s": [md5s[file] for file in sample.files],
        "group": sample.group,
        "image_label": sample.image_label,
    }


def write_dataset(
    folder: str | Path,
    *,
    layout: str,
    root: str | Path,
    labels: LabelMap,
    classes: Mapping[str, Sequence[str]] | None = None,
    source: Mapping[str, Any],
    revision: str | None,
    digest: str,
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Write ``manifest.parquet`` and ``dataset.json`` into ``folder``, which must exist.

    Args:
        layout: name of the layout.
        classes: merged, renamed and dropped classes, as ``open_layout`` takes them.
        root: folder of the data, absolute or relative to ``folder``.
        rows: as ``manifest_row`` makes them; their order is kept.

    Raises:
        InputError: a split without samples, or an id twice in one split.
    """
    folder, where = Path(folder), source.get("path") or source.get("kind", root)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=MANIFEST_SCHEMA)
    counts = Counter(table.column("split").to_pylist())
    for split in SPLITS:
        if not counts[split]:
            raise InputError(
                f"split {split!r} of dataset {where} has no samples (found {dict(counts)}), expected at least one in"
                " each of train, val and test: set ingest.splits, or ingest.split where the dataset ships no splits"
            )
    places = Counter(zip(table.column("split").to_pylist(), table.column("id").to_pylist(), strict=True))
    if twice := [f"{split}/{name}" for (split, name), count in places.items() if count > 1]:
        raise InputError(
            f"dataset {where} has samples with the same id: {', '.join(twice[:5])}: expected each once in its split,"
            " list each once or rename them"
        )
    pq.write_table(table.replace_schema_metadata({DIGEST: digest}), folder / MANIFEST)
    facts = {
        "layout": layout,
        **({"classes": {name: list(parts) for name, parts in classes.items()}} if classes else {}),
        "root": str(root),
        "labels": labels.to_dict(),
        "source": dict(source),
        "revision": revision,
        "digest": digest,
        "samples": {split: counts[split] for split in SPLITS},
    }
    (folder / DATASET).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

"""A small dataset, spoilt as a test wants it, ingested and validated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from small_dataset import write_small_dataset

from components.params.checking import checked
from components.params.schema import IngestParams, ValidateParams
from components.steps.ingest import ingest
from components.steps.validate import validate

SPLITS = {"train": 8, "val": 4, "test": 4}
SIZE = (64, 48)  # width, height
ONE_WORKER = ValidateParams(workers=1)

Facts = dict[tuple[str, str], dict[str, Any]]


def ingested(tmp_path: Path, change: Callable[[Path], None] | None = None, **facts: Any) -> Path:
    """A small dataset in ``tmp_path/set``, changed, and its manifest."""
    root = write_small_dataset(tmp_path / "set", SPLITS, SIZE)
    if change:
        change(root)
    params = checked(IngestParams, {"source": "folder", "path": str(root), **facts})
    ingest(params, tmp_path / "dataset", tmp_path / "cache")
    return root


def validated(tmp_path: Path, params: ValidateParams = ONE_WORKER) -> tuple[dict[str, Any], Facts]:
    """Report and facts by (split, image)."""
    validate(params, tmp_path / "dataset", tmp_path / "validation")
    return read(tmp_path / "validation")


def read(folder: Path) -> tuple[dict[str, Any], Facts]:
    rows = pq.read_table(folder / "facts.parquet").to_pylist()
    return json.loads((folder / "report.json").read_text()), {(row["split"], row["image"]): row for row in rows}


def warnings(report: dict[str, Any]) -> dict[str, list[str]]:
    return {entry["check"]: entry["examples"] for entry in report["warnings"]}


def image(root: Path, number: int, split: str = "train") -> Path:
    return root / "images" / split / f"{number:03d}.png"


def mask(root: Path, number: int, split: str = "train") -> Path:
    return root / "masks" / split / f"{number:03d}.png"


def labels(*values: int) -> np.ndarray:
    """A mask of the dataset's size with these values in stripes."""
    return np.repeat(np.resize(np.array(values), SIZE[0])[None], SIZE[1], axis=0)


# What passes

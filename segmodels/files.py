"""Reading this project's own files: what is missing or damaged is named, with the step that makes it again."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmodels.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

DATASET, MANIFEST = "dataset.json", "manifest.parquet"
STATISTICS = "statistics.json"
DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
"""Files that the library writes: of a dataset on record, of shards, of a trained model."""


def read_json(path: Path, step: str) -> Any:
    """What a JSON file holds.

    Args:
        step: that writes the file, for the advice in errors.

    Raises:
        InputError: not there, not readable or not JSON.
    """
    with _named(path, step):
        return json.loads(path.read_text(encoding="utf-8"))


def read_text(path: Path, step: str) -> str:
    """What a UTF-8 text file holds; arguments and errors as ``read_json``."""
    with _named(path, step):
        return path.read_text(encoding="utf-8")


def read_csv(path: Path, step: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; arguments and errors as ``read_json``."""
    with _named(path, step), path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def read_parquet(path: Path, step: str, schema: pa.Schema | None = None) -> pa.Table:
    """The table of a Parquet file, with the columns of ``schema`` where that is given; other arguments and errors as
    ``read_json``.
    """
    import pyarrow.parquet as pq

    with _named(path, step):
        table = pq.read_table(path)
        return table if schema is None else table.select(schema.names).cast(schema)


@contextmanager
def _named(path: Path, step: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is not there: run the step {step} first") from None
    except (OSError, ValueError, KeyError, csv.Error) as error:  # pyarrow's errors are among them
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): run the step {step} again") from None

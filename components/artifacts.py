"""Names and readers of every file that one step hands to another.

``METRICS.read(evaluation)``, ``METRICS.write(folder, scores)``, ``METRICS.path(folder)``: a file knows the step that
writes it, and says so where it is missing or damaged.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmodels import files
from segmodels.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class File:
    """A file in a step's output.

    Attributes:
        name: relative to the folder of the output, with ``/``.
        step: that writes it.
    """

    name: str
    step: str

    def path(self, folder: Path) -> Path:
        return folder / self.name

    def reading(self, folder: Path) -> AbstractContextManager[None]:
        """Around lines that use the file's content: whatever fails there means that the file is damaged."""
        return files.reading(self.path(folder), self.step)


@dataclass(frozen=True)
class JsonFile(File):
    """A JSON file.

    Attributes:
        shape: of its content, as far as readers rely on it; ``files.parse_json`` explains shapes.
    """

    shape: Any = object

    def read(self, folder: Path) -> Any:
        """Its content. Raises InputError: not there, damaged, or of another shape."""
        return files.read_json(self.path(folder), self.step, self.shape)

    def write(self, folder: Path, content: Any) -> None:
        """Write it aside and rename it: after a full disk or a power loss the file is whole, the old or the new one."""
        path = self.path(folder)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)


class TextFile(File):
    def read(self, folder: Path) -> str:
        """Its text. Raises InputError: not there, or damaged."""
        return files.read_text(self.path(folder), self.step)

    def write(self, folder: Path, content: str) -> None:
        self.path(folder).write_text(content, encoding="utf-8")


@dataclass(frozen=True)
class CsvFile(File):
    """A CSV file with a header.

    Attributes:
        columns: that readers rely on.
    """

    columns: tuple[str, ...] = ()

    def read(self, folder: Path) -> list[dict[str, str]]:
        """Its rows. Raises InputError: not there, damaged, or without one of the columns."""
        return files.read_csv(self.path(folder), self.step, self.columns)


class ParquetFile(File):
    def read(self, folder: Path, schema: pa.Schema | None = None) -> pa.Table:
        """The table, with the columns of ``schema``. Raises InputError: not there, damaged, or with other columns."""
        return files.read_parquet(self.path(folder), self.step, schema)


DATASET = JsonFile(
    files.DATASET,
    "ingest",
    {
        "layout": str,
        "root": str,
        "labels": {"classes": [str]},
        "source": {str: object},
        "revision": (str, None),
        "digest": str,
        "samples": {str: int},
    },
)
"""Layout, root, labels, source, revision, digest, samples per split."""
MANIFEST = ParquetFile(files.MANIFEST, "ingest")
"""A row per sample."""
CARRIED = "files"
"""Subfolder of the data itself, where ingest copies it."""

FACTS = ParquetFile("facts.parquet", "validate")
"""A row per sample: what opening it showed."""
FORM = {"dtype": str, "channels": int, "spatial_dims": int}
REPORT = JsonFile("report.json", "validate", {"success": bool, "digest": str, "form": (FORM, None)})
"""Findings, and whether the dataset passed (``success``)."""
OVERVIEW = TextFile("docs/index.html", "validate")
"""First page of the data docs."""

PLACE = {"part": int, "parts": int, "digest": str}
PLACE_OF_FACTS = JsonFile("place.json", "validate-part", PLACE)
PLACE_OF_SHARDS = JsonFile(PLACE_OF_FACTS.name, "preprocess-part", PLACE)
"""Beside the facts or shards of one part of a dataset: which part of how many."""

STATISTICS = JsonFile(
    files.STATISTICS, "preprocess", {"digest": str, "labels": {"classes": [str]}, "mean": [float], "std": [float]}
)
"""Facts of the shards: digest, labels, mean and std per channel."""

DESCRIPTION = JsonFile(
    files.DESCRIPTION, "train", {"name": str, "lineage": {str: object}, "metrics": {str: (float, None)}}
)
"""Facts of the model: name, options, labels, lineage, metrics."""
RUN = JsonFile("run.json", "train", {"run_id": str, "tracking_uri": str})
"""The MLflow run of the training: ``run_id``, ``tracking_uri``, ``experiment``, ``experiment_id``."""
JOURNAL = TextFile("metrics.jsonl", "train")
"""Metrics on their way to MLflow, beside the checkpoints."""

CLASS_SCORES = CsvFile("val_class_scores.csv", "train")
"""Beside the checkpoints: epoch, score of a class and its value, of each validation with many classes."""
VALIDATION_PICTURES = "pictures"
"""Subfolder beside the checkpoints: pictures on their way to MLflow."""

METRICS = JsonFile("metrics.json", "evaluate", {str: (float, None)})
"""Dataset-level scores."""
EVALUATION = JsonFile(
    "evaluation.json",
    "evaluate",
    {
        "params": {"batch_size": int, "accelerator": str},
        "task": str,
        "headline": {str: str},
        "settings": {str: object},
        "model_digest": str,
        "data_digest": str,
    },
)
"""How they were measured: parameters, task, settings, how people write its first scores (``headline``), digests of
model and data.
"""
CONFUSION = JsonFile("confusion.json", "evaluate", {"classes": [str], "counts": [[int]]})
"""The confusion matrix: ``classes``, ``counts``."""
CONFUSION_TABLE = CsvFile("confusion.csv", "evaluate")
"""The same as rows: actual, predicted, count, share."""
PER_CLASS = CsvFile("per_class.csv", "evaluate", ("class",))
"""Scores of each class."""
SLICES = JsonFile("slices.json", "evaluate", [{"by": str, "slice": str, "images": int}])
"""Scores of parts of the images: by size, brightness and group."""
SLICES_TABLE = CsvFile("slices.csv", "evaluate")
"""The same as rows."""
PER_IMAGE = ParquetFile("per_image.parquet", "evaluate")
"""Scores of each image, and what they follow from."""
PICTURES = "pictures"
"""Subfolder of PNG files."""

REGISTRATION = JsonFile(
    "registration.json",
    "register",
    {"name": str, "version": str, "uri": str, "alias": str, "reason": str, "metric": str, "value": float},
)
"""Name, version and alias of the registered model; the decision and its reason."""
MODEL_CARD = TextFile("model_card.md", "register")
"""Card of the registered version; its pictures lie beside it."""

MARKS = {file.step: file for file in (MANIFEST, REPORT, STATISTICS, DESCRIPTION, METRICS, REGISTRATION)}
"""A file of each step by which a folder is known as its output."""


def check_replaceable(step: str, output: Path) -> None:
    """Check that a step, which replaces its output folder, finds none but an earlier output or an empty folder there.

    Raises:
        InputError: it holds files of something else, such as a user's dataset, which would be deleted.
    """
    if step not in MARKS or not output.is_dir() or MARKS[step].path(output).is_file():
        return
    if held := sorted(path.name for path in output.iterdir()):
        shown = ", ".join(held[:3]) + (" and others" if len(held) > 3 else "")
        raise InputError(
            f"folder {output} is where step {step} writes, and what it holds ({shown}) would be deleted: move that to"
            " another folder, or give the step another one"
        )

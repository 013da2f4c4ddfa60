"""Writes shards. The same samples written in the same order give the same bytes.

Which sample lies in which file follows from the sizes of all samples alone, so that files can be written side by side.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from segmodels.annotations import Annotation
from segmodels.data.image_form import ImageForm
from segmodels.data.records import SCHEMA, encode, record_schema
from segmodels.data.statistics import DatasetStatistics, SampleCounts, StatisticsBuilder
from segmodels.errors import InputError
from segmodels.files import SHARD_PART, STATISTICS
from segmodels.labels import LabelMap


class Borders:
    """Where one file of a split ends and the next begins: when its raw pixels reach a size.

    Args:
        labels: of the annotations.
        form: of the images.
        shard_bytes: a file takes samples until its raw pixels reach this size.
        first: number of the first file.
    """

    def __init__(self, labels: LabelMap, form: ImageForm, shard_bytes: int, first: int = 0) -> None:
        self._of_image = form.channels * form.dtype.itemsize
        self._of_map = sum(own.dtype.itemsize for own in (labels, *labels.further.values()))
        self._shard_bytes = shard_bytes
        self._filled = 0
        self._number = first

    def file_of(self, size: Sequence[int], map_size: Sequence[int]) -> int:
        """Number of the file of the next sample of the split, whose image and annotation have these sizes."""
        if self._filled >= self._shard_bytes:
            self._number, self._filled = self._number + 1, 0
        self._filled += int(np.prod(size)) * self._of_image + int(np.prod(map_size)) * self._of_map
        return self._number


def shard_name(split: str, number: int) -> str:
    """Name of a file of a split; files are numbered from 0."""
    return f"{split}-{number:05d}.arrow"


class ShardFile:
    """One file that is being written."""

    def __init__(self, path: Path, labels: LabelMap) -> None:
        self._file = path.open("wb")
        self._arrow = pa.ipc.new_file(self._file, record_schema(labels))

    def add(self, record: pa.RecordBatch) -> None:
        """Append what ``encode`` made of a sample."""
        self._arrow.write_batch(record)

    def close(self) -> int:
        """Complete the file; its size in bytes."""
        self._arrow.close()
        size = self._file.tell()
        self._file.close()
        return size

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(OSError):  # a full disk fails again when the rest is flushed
            self._file.close()


class ShardWriter:
    """Writes samples to shards, split after split; a context manager that completes the folder on a clean exit.

    Args:
        folder: must exist; its content is complete only once the writer has closed.
        labels: the label map of the annotations.
        digest: of the dataset.
        shard_bytes: a shard is closed when its raw pixels reach this size: see ``Borders``.
        longer_side: pixels that the longer side of every image was resized to; None: they kept their size.
        source: where the dataset came from.
        first: of a writer that writes one part of the files: split -> number of its first file. The folder is then one
            of those that ``merge_parts`` puts together.
        neighbours: slices of a volume on each side of an image that are among its channels.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: LabelMap,
        digest: str,
        shard_bytes: int = 256_000_000,
        longer_side: int | None = None,
        source: Mapping[str, Any] | None = None,
        first: Mapping[str, int] | None = None,
        neighbours: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.labels = labels
        self.digest = digest
        self.shard_bytes = shard_bytes
        self.longer_side = longer_side
        self.source = dict(source or {})
        self.first = first
        self.neighbours = neighbours
        self._statistics = StatisticsBuilder(labels.num_classes)
        self._shards: dict[str, list[dict[str, Any]]] = {}
        self._borders: dict[str, Borders] = {}
        self._form: ImageForm | None = None
        self._file: ShardFile | None = None
        self._split: str | None = None
        self._number = 0
        self._groups: list[list[Any]] = []  # of the shard, as runs of equal ones

    def add(
        self,
        split: str,
        sample_id: str,
        image: np.ndarray,
        annotation: Annotation | None,
        *,
        image_label: int | None = None,
        counts: SampleCounts | None = None,
        group: str = "",
    ) -> None:
        """Append a sample.

        Args:
            image: ``(*spatial, C)``, uint8, int8, uint16, int16 or float32; alike in all samples but for their size.
            annotation: in train ids, at the image's size or another; None: the image is not annotated.
            image_label: class of an image without annotation; an annotation has its own.
            counts: of the sample, computed beforehand; None: computed here.
            group: that it shares with others (a patient, a video); empty for none.

        Raises:
            InputError: the image is of another form than the first one, or of one that shards cannot hold; names it.
        """
        self._check_form(split, sample_id, image)
        size, map_size = image.shape[:-1], image.shape[:-1] if annotation is None else annotation.size
        if split not in self._borders:
            first = (self.first or {}).get(split, 0)
            self._shards[split], self._borders[split] = [], Borders(self.labels, self.form, self.shard_bytes, first)
        number = self._borders[split].file_of(size, map_size)
        if split != self._split or number != self._number:
            self._finish_shard()
            self._start_shard(split, number)
        assert self._file is not None
        label = image_label if annotation is None else annotation.image_label
        self._file.add(encode(sample_id, image, annotation, label, self.labels))
        facts = self._shards[split][-1]
        facts["samples"] += 1
        facts["annotated"] += annotation is not None
        facts["objects"] += 0 if annotation is None else len(annotation.segments)
        for runs, value in ((facts["sizes"], list(size)), (self._groups, group)):
            if runs and runs[-1][1] == value:
                runs[-1][0] += 1
            else:
                runs.append([1, value])
        classes = None if annotation is None else annotation.classes
        self._statistics.add(split, counts or SampleCounts.of(image, classes, self.labels.num_classes))

    @property
    def form(self) -> ImageForm:
        """The form of the samples so far."""
        if self._form is None:
            raise InputError(f"shard folder {self.folder} has no samples, expected at least one: add them")
        return self._form

    @property
    def statistics(self) -> DatasetStatistics:
        """The statistics of the samples so far."""
        return self._statistics.build()

    @property
    def shards(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Split -> its files in order: name, samples, annotated samples, objects, bytes, sizes of the images."""
        return self._shards

    def close(self) -> None:
        """Complete the last shard and write ``statistics.json``, or ``part.json`` for one part of the files."""
        self._finish_shard()
        form = self._form if self.first is not None else self.form
        neighbours = {"neighbours": self.neighbours} if self.neighbours else {}
        facts = {
            "schema": SCHEMA,
            "image": form
            and {"dtype": form.dtype.name, "channels": form.channels, "spatial_dims": form.spatial_dims, **neighbours},
            "labels": self.labels.to_dict(),
            "digest": self.digest,
            "longer_side": self.longer_side,
            "source": self.source,
            "shards": self._shards,
        }
        if self.first is None:
            write_statistics(self.folder, self.statistics, facts)
        else:
            write_json(self.folder / SHARD_PART, facts | {"counts": self._statistics.to_dict()})

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._file is not None:
            self._file.abandon()

    def _check_form(self, split: str, sample_id: str, image: np.ndarray) -> None:
        try:
            form = ImageForm.of(image)
        except InputError as error:
            raise InputError(f"sample {sample_id!r} of split {split!r}: {error}") from None
        if self._form is None:
            self._form = form
        elif form != self._form:
            raise InputError(
                f"sample {sample_id!r} of split {split!r} has {form}, the samples before it have {self._form}, expected"
                " one form: convert the images"
            )

    def _start_shard(self, split: str, number: int) -> None:
        name = shard_name(split, number)
        self._file, self._split, self._number = ShardFile(self.folder / name, self.labels), split, number
        self._shards[split].append({"file": name, "samples": 0, "annotated": 0, "objects": 0, "bytes": 0, "sizes": []})

    def _finish_shard(self) -> None:
        if self._file is not None:
            facts = self._shards[str(self._split)][-1]
            facts["bytes"] = self._file.close()
            if any(group for _, group in self._groups):
                facts["groups"] = self._groups
            self._file, self._groups = None, []


def write_statistics(folder: Path, statistics: DatasetStatistics, facts: Mapping[str, Any]) -> None:
    """Write ``statistics.json``, which makes a folder of shards complete."""
    write_json(folder / STATISTICS, statistics.to_dict() | dict(facts))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON with a line per value."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

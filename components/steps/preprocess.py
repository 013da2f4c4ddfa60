"""Pack the dataset into shards of raw pixels, with train ids instead of label ids and one size if asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from components.artifacts import FACTS, PLACE_OF_SHARDS, REPORT
from components.datasets.dataset_files import open_dataset
from components.params.schema import PreprocessParams
from components.running.atomic import written_folder, written_output
from components.running.parallel import parallel_map
from components.running.parts import in_order, share
from components.running.progress_bar import track
from components.storage.folders import keep_in_store
from segmodels.annotations import Annotation
from segmodels.data.decoding import converted, resize_image, scaled_size
from segmodels.data.image_form import ImageForm
from segmodels.data.layouts import Layout, Sample, check_sizes
from segmodels.data.layouts.splits import SPLITS
from segmodels.data.manifest import Dataset
from segmodels.data.shard_info import read_info
from segmodels.data.shard_parts import Size, files_of, merge_parts
from segmodels.data.shard_writer import Borders, ShardWriter, shard_name
from segmodels.data.statistics import DatasetStatistics, SampleCounts
from segmodels.errors import InputError

MEGABYTE = 1_000_000

Shards = Mapping[str, Sequence[Mapping[str, Any]]]
"""Split -> its files, as in statistics.json."""


def preprocess(params: PreprocessParams, dataset: Path, validation: Path, shards: Path) -> DatasetStatistics:
    """Write the shards of every split and their statistics into the folder ``shards``.

    With ``longer_side`` set, images are resized to it, by area averaging when they shrink and bilinearly when they
    grow, and annotations of train and val with them, by the nearest label. Annotations of test keep their size, as
    predictions are measured at the labels' own resolution. Images of several forms get the one that the validation
    found for all: grey among RGB becomes RGB, 16 bits among 8 become 8. The same dataset and parameters give the same
    bytes. Memory holds a few samples per worker.

    With ``store`` set, the shards lie there in a folder named by the digest of their bytes, and ``shards`` holds
    statistics.json alone, with the folder's address.

    Args:
        dataset: folder that ingest wrote.
        validation: folder that validate wrote; the dataset must have passed.
        shards: output folder.

    Raises:
        InputError: the dataset did not pass, a file is missing or broken, or the store refuses.
        TransientError: the store does not answer.
    """
    data = open_dataset(dataset)
    report = _passed(validation, data.digest)
    samples = [data.samples()[position] for position in _packing_order(data)]
    with written_output("preprocess", shards) as folder:
        writer = _write(params, data, samples, report["form"], folder)
        _finish(params, folder, writer.shards)
    return writer.statistics


def preprocess_part(
    params: PreprocessParams, dataset: Path, validation: Path, part: int, parts: int, packed: Path
) -> None:
    """Write some of the shards that ``preprocess`` would write, the same bytes, into the folder ``packed``.

    Which samples a shard holds follows from the sizes that validate found, so each part packs whole shards. With fewer
    shards than parts some parts have nothing to do.

    Args:
        dataset: folder that ingest wrote.
        validation: folder that validate or validate-merge wrote; the dataset must have passed.
        part: number of the part, from 0.
        parts: number of parts.
        packed: output folder.

    Raises:
        InputError: as ``preprocess``, or an image has another size than validate found.
    """
    data = open_dataset(dataset)
    report = _passed(validation, data.digest)
    order = _packing_order(data)
    files = _planned(params, data, validation, report["form"], order)
    known = list(dict.fromkeys(files))
    own = {known[place] for place in share(len(known), part, parts)}
    samples = [data.samples()[position] for position, file in zip(order, files, strict=True) if file in own]
    first = {split: min(number for of, number in own if of == split) for split, _ in own}
    with written_folder(packed) as folder:
        shards = _write(params, data, samples, report["form"], folder, first).shards
        written = {file["file"]: file["samples"] for split in shards.values() for file in split}
        planned = Counter(shard_name(*file) for file in files if file in own)
        if written != planned:
            raise InputError(
                f"images of dataset {dataset} have other sizes than {FACTS.path(validation)} says: run the step"
                " validate again"
            )
        _finish(params, folder, shards, f"part {part} of {parts}: ")
        PLACE_OF_SHARDS.write(folder, {"part": part, "parts": parts, "digest": data.digest})


def preprocess_merge(shards: Path, packed: tuple[Path, ...] = ()) -> DatasetStatistics:
    """Put the shards of all parts and their statistics into the folder ``shards``: what ``preprocess`` writes.

    Args:
        shards: output folder.
        packed: folders that preprocess-part wrote, in any order.

    Raises:
        InputError: a part is missing, damaged or of another dataset.
    """
    with written_output("preprocess", shards) as folder:
        statistics = merge_parts(in_order(packed, PLACE_OF_SHARDS), folder)
        print(_described(read_info(folder).shards))
    return statistics


def _packing_order(data: Dataset) -> list[int]:
    """Positions in the manifest, split after split."""
    splits = [sample.split for sample in data.samples()]
    return [position for split in SPLITS for position, own in enumerate(splits) if own == split]


def _planned(
    params: PreprocessParams, data: Dataset, validation: Path, form: dict[str, Any], order: list[int]
) -> list[tuple[str, int]]:
    """Split and number of the shard of each sample in ``order``."""
    facts = FACTS.read(validation)
    with FACTS.reading(validation):
        columns = [facts.column(name).to_pylist() for name in ("split", "size", "annotation_size")]
        rows = list(zip(*columns, strict=True))
        sizes = [_stored_size(params.longer_side, *rows[position]) for position in order]
    with REPORT.reading(validation):
        image = ImageForm(np.dtype(form["dtype"]), form["channels"], form["spatial_dims"])
    shard_bytes = params.shard_megabytes * MEGABYTE
    return files_of(sizes, {split: Borders(data.labels, image, shard_bytes) for split in SPLITS})


def _stored_size(longer_side: int | None, split: str, image: list[int], annotation: list[int] | None) -> Size:
    """Size of a sample in its shard, from its sizes in the dataset; ``_prepare`` rejects volumes to be resized."""
    stored = scaled_size((image[0], image[1]), longer_side) if longer_side is not None else image
    if annotation is None or (longer_side is not None and split != "test"):
        annotation = list(stored)
    return Size(split, stored, annotation)


def _write(
    params: PreprocessParams,
    data: Dataset,
    samples: Sequence[Sample],
    form: dict[str, Any] | None,
    folder: Path,
    first: Mapping[str, int] | None = None,
) -> ShardWriter:
    """Prepare the samples and write them to ``folder``; ``first`` as in ``ShardWriter``."""
    common = data.layout, params.longer_side, form
    prepared = parallel_map(_prepare, samples, params.workers, _start, common)
    shard_bytes = params.shard_megabytes * MEGABYTE
    members = Counter(sample.group for sample in data.samples())
    neighbours = data.layout.neighbours
    with ShardWriter(
        folder, data.labels, data.digest, shard_bytes, params.longer_side, data.source, first, neighbours
    ) as writer:
        for sample, one in zip(samples, track(prepared, "preprocess", len(samples)), strict=True):
            writer.add(
                str(sample.split),
                sample.id,
                one.image,
                one.annotation,
                image_label=sample.image_label,
                counts=one.counts,
                group=sample.group if members[sample.group] > 1 else "",
            )
    return writer


def _finish(params: PreprocessParams, folder: Path, shards: Shards, part: str = "") -> None:
    print(f"{part}{_described(shards)}")
    if params.store and shards:
        print(f"they are in {keep_in_store(folder, params.store)}")


def _described(shards: Shards) -> str:
    files = [file for of_split in shards.values() for file in of_split]
    samples, size = (sum(file[name] for file in files) for name in ("samples", "bytes"))
    return f"{samples} samples in {len(files)} shards, {size / 1e6:.0f} MB"


class Prepared(NamedTuple):
    """A sample as it goes into a shard."""

    image: NDArray
    annotation: Annotation | None
    counts: SampleCounts


def _passed(validation: Path, digest: str) -> dict[str, Any]:
    """The report of the dataset of this digest, which passed."""
    report: dict[str, Any] = REPORT.read(validation)
    path = REPORT.path(validation)
    if not report["success"]:
        raise InputError(
            f"the dataset did not pass its validation ({path}): correct what the report names and run the step"
            " validate again"
        )
    if report["digest"] != digest:
        raise InputError(
            f"{path} is the report of the dataset {report['digest']}, not of {digest}: run the step validate again"
        )
    with REPORT.reading(validation):
        np.dtype(report["form"]["dtype"] if report["form"] else np.uint8)
    return report


_common: tuple[Layout, int | None, dict[str, Any] | None]  # of all samples that a worker process prepares


def _start(layout: Layout, longer_side: int | None, form: dict[str, Any] | None) -> None:
    global _common
    _common = layout, longer_side, form
    cv2.setNumThreads(1)  # the processes share the cores already


def _prepare(sample: Sample) -> Prepared:
    layout, longer_side, form = _common
    image, annotation = layout.read_image(sample), layout.annotation(sample)
    if annotation is not None:
        check_sizes(sample, image, annotation)
        annotation = replace(annotation, image_label=sample.image_label)
    if form is not None:
        image = converted(image, form["channels"], np.dtype(form["dtype"]), sample.image)
    if longer_side is not None:
        if image.ndim != 3:
            raise InputError(
                f"preprocess.longer_side is {longer_side} but {sample.image} is a volume, expected images: set it to"
                " null"
            )
        image = resize_image(image, longer_side)
        if annotation is not None and sample.split != "test":
            annotation = annotation.resized(image.shape[:2])
    classes = None if annotation is None else annotation.classes
    return Prepared(image, annotation, SampleCounts.of(image, classes, layout.labels.num_classes))

"""Pack the dataset into shards of raw pixels, with train ids instead of label ids and one size if asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from components.artifacts import REPORT
from components.datasets.dataset_files import open_dataset
from components.params.schema import PreprocessParams
from components.running.atomic import written_folder
from components.running.parallel import parallel_map
from components.running.progress_bar import track
from segmodels.annotations import Annotation
from segmodels.data.decoding import converted, resize_image
from segmodels.data.layouts import Layout, Sample, check_sizes
from segmodels.data.manifest import SPLITS
from segmodels.data.shard_writer import ShardWriter
from segmodels.data.statistics import DatasetStatistics, SampleCounts
from segmodels.errors import InputError


def preprocess(params: PreprocessParams, dataset: Path, validation: Path, shards: Path) -> DatasetStatistics:
    """Write the shards of every split and their statistics into the folder ``shards``.

    With ``longer_side`` set, images are resized to it, by area averaging when they shrink and bilinearly when they
    grow, and annotations of train and val with them, by the nearest label. Annotations of test keep their size, as
    predictions are measured at the labels' own resolution. Images of several forms get the one that the validation
    found for all: grey among RGB becomes RGB, 16 bits among 8 become 8. The same dataset and parameters give the same
    bytes. Memory holds a few samples per worker.

    Args:
        dataset: folder that ingest wrote.
        validation: folder that validate wrote; the dataset must have passed.
        shards: output folder.

    Raises:
        InputError: the dataset did not pass, or a file is missing or broken.
    """
    data = open_dataset(dataset)
    report = _passed(validation, data.digest)
    samples = [sample for split in SPLITS for sample in data.samples(split)]
    common = data.layout, params.longer_side, report["form"]
    prepared = parallel_map(_prepare, samples, params.workers, _start, common)
    with written_folder(shards) as folder:
        with ShardWriter(
            folder, data.labels, data.digest, params.shard_megabytes * 1_000_000, params.longer_side, data.source
        ) as writer:
            for sample, one in zip(samples, track(prepared, "preprocess", len(samples)), strict=True):
                label = sample.image_label
                writer.add(
                    str(sample.split), sample.id, one.image, one.annotation, image_label=label, counts=one.counts
                )
        statistics = writer.statistics
    megabytes = sum(path.stat().st_size for path in shards.glob("*.arrow")) / 1e6
    print(f"{len(samples)} samples in {len(list(shards.glob('*.arrow')))} shards, {megabytes:.0f} MB")
    return statistics


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

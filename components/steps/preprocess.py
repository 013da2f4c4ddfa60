"""Pack the dataset into shards of raw pixels: train ids instead of label ids, one size if asked for, statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from components.params.schema import PreprocessParams
from components.running.atomic import written_folder
from components.running.parallel import parallel_map
from components.running.progress_bar import track
from segmodels.annotations import Annotation
from segmodels.data.decoding import resize_image
from segmodels.data.layouts import Layout, Sample
from segmodels.data.manifest import SPLITS, Dataset
from segmodels.data.shards import ShardWriter
from segmodels.data.statistics import DatasetStatistics, SampleCounts
from segmodels.errors import InputError


def preprocess(params: PreprocessParams, dataset: Path, validation: Path, shards: Path) -> DatasetStatistics:
    """Write the shards of every split and their statistics into the folder ``shards``.

    With ``longer_side`` set, images are resized to it, by area averaging when they shrink and bilinearly when they
    grow, and masks of train and val with them, by the nearest label. Masks of test keep their size, as predictions are
    measured at the labels' own resolution. The same dataset and parameters give the same bytes. Memory holds a few
    samples per worker.

    Args:
        dataset: folder that ingest wrote.
        validation: folder that validate wrote; the dataset must have passed.
        shards: output folder.

    Raises:
        InputError: the dataset did not pass, or a file is missing or broken.
    """
    _require_passed(validation)
    data = Dataset.open(dataset)
    samples = [sample for split in SPLITS for sample in data.samples(split)]
    prepared = parallel_map(_prepare, samples, params.workers, _start, (data.layout, params.longer_side))
    with written_folder(shards) as folder:
        with ShardWriter(
            folder, data.labels, data.digest, params.shard_megabytes * 1_000_000, params.longer_side, data.source
        ) as writer:
            for sample, (image, mask, counts) in zip(samples, track(prepared, "preprocess", len(samples)), strict=True):
                annotation = Annotation.of_classes(mask, sample.image_label)
                writer.add(str(sample.split), sample.id, image, annotation, counts=counts)
        statistics = writer.statistics
    megabytes = sum(path.stat().st_size for path in shards.glob("*.arrow")) / 1e6
    print(f"{len(samples)} samples in {len(list(shards.glob('*.arrow')))} shards, {megabytes:.0f} MB")
    return statistics


class Prepared(NamedTuple):
    """A sample as it goes into a shard."""

    image: np.ndarray
    mask: np.ndarray
    counts: SampleCounts


def resize(image: np.ndarray, mask: np.ndarray | None, longer_side: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image ``(H, W, 3)`` and mask ``(H, W)``, if given, with the longer side at ``longer_side`` pixels and the same
    proportions.
    """
    resized = resize_image(image, longer_side)
    if mask is None or resized is image:
        return resized, mask
    size = resized.shape[1], resized.shape[0]
    return resized, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _require_passed(validation: Path) -> None:
    report = validation / "report.json"
    try:
        passed = json.loads(report.read_text(encoding="utf-8"))["success"]
    except FileNotFoundError:
        raise InputError(f"validation report {report} is not there: run the step validate first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"validation report {report} cannot be read ({error}): run the step validate again") from None
    if not passed:
        raise InputError(
            f"the dataset did not pass its validation ({report}): correct what the report names and run the step"
            " validate again"
        )


_common: tuple[Layout, int | None]  # of all samples that a worker process prepares


def _start(layout: Layout, longer_side: int | None) -> None:
    global _common
    _common = layout, longer_side
    cv2.setNumThreads(1)  # the processes share the cores already


def _prepare(sample: Sample) -> Prepared:
    layout, longer_side = _common
    if sample.mask is None and layout.labelled:
        raise InputError(f"sample {sample.id!r} of split {sample.split!r} has no mask: add it or remove the sample")
    image, mask = layout.read(sample)
    if longer_side is not None:
        image, resized = resize(image, None if sample.split == "test" else mask, longer_side)
        mask = mask if resized is None else resized
    return Prepared(image, mask, SampleCounts.of(image, mask, layout.labels.num_classes))

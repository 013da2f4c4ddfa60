"""What there is to know about each sample: its files are opened, decoded and measured, on all cores."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from components.running.digests import file_md5
from components.running.parallel import parallel_map
from components.running.progress_bar import track
from segmodels.data.layouts import Sample
from segmodels.data.manifest import Dataset
from segmodels.errors import InputError
from segmodels.labels import LabelMap

SAMPLES_PER_TASK = 32
LARGEST_LABEL = 65535

MIN_CONTRAST = 4.0
"""Grey levels; the standard deviation of a thumbnail below which an image has too little to tell it from others by."""

FACTS = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("image", pa.string()),
        ("mask", pa.string()),
        ("image_error", pa.string()),  # why the file could not be read; then its other facts are null
        ("mask_error", pa.string()),
        ("image_md5", pa.string()),
        ("mask_md5", pa.string()),
        ("image_mode", pa.string()),  # of the file: L, RGB, P, 1, I;16, ... as Pillow names them
        ("mask_mode", pa.string()),
        ("image_bits", pa.int32()),  # per channel, in the file
        ("mask_bits", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask_height", pa.int32()),
        ("mask_width", pa.int32()),
        ("values", pa.list_(pa.int32())),  # label ids in the mask, as the dataset numbers them
        ("unknown_labels", pa.list_(pa.int32())),
        ("void_share", pa.float64()),  # of the mask's pixels
        ("class_pixels", pa.list_(pa.int64())),  # by train id
        ("image_hash", pa.uint64()),  # perceptual; null for an image without contrast
    ]
)


def gather_facts(dataset: Path, workers: int) -> pa.Table:
    """One row of ``FACTS`` per sample of the manifest, in its order.

    Args:
        dataset: folder of the manifest.
        workers: processes; 0 means one per core.

    Raises:
        TransientError: a process was killed.
    """
    starts = range(0, Dataset.open(dataset).table.num_rows, SAMPLES_PER_TASK)
    batches = track(parallel_map(_measure, starts, workers, _open, (dataset,)), "opening samples", len(starts))
    return pa.Table.from_batches(batches, schema=FACTS)


def perceptual_hash(image: np.ndarray) -> int | None:
    """64 bits that stay the same when an image ``(H, W, 3)`` is rescaled, recompressed or slightly changed in colour.

    The signs of the 64 lowest frequencies of a 32x32 thumbnail's cosine transform against their median (Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions", section 3.2). None for an image without
    contrast, whose signs are noise.
    """
    thumbnail = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    if thumbnail.std() < MIN_CONTRAST:
        return None
    lowest = cv2.dct(thumbnail)[1:9, 1:9].ravel()
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


_worker: dict[str, Any] = {}


def _open(dataset: Path) -> None:
    cv2.setNumThreads(1)
    opened = Dataset.open(dataset)
    _worker.update(dataset=opened, samples=opened.samples())


def _measure(start: int) -> pa.RecordBatch:
    samples = _worker["samples"][start : start + SAMPLES_PER_TASK]
    return pa.RecordBatch.from_pylist([_facts(_worker["dataset"], sample) for sample in samples], schema=FACTS)


def _facts(dataset: Dataset, sample: Sample) -> dict[str, Any]:
    layout = dataset.layout
    facts: dict[str, Any] = {"id": sample.id, "split": sample.split, "image": sample.image, "mask": sample.mask}
    try:
        facts |= _of_file("image", layout.root / sample.image)
        image = layout.read_image(sample)
        facts |= {"height": image.shape[0], "width": image.shape[1], "image_hash": perceptual_hash(image)}
    except InputError as error:
        facts["image_error"] = str(error)
    if sample.mask is None:
        return facts
    try:
        facts |= _of_file("mask", layout.root / sample.mask)
        facts |= _of_mask(layout.read_source_mask(sample), dataset.labels)
    except InputError as error:
        facts["mask_error"] = str(error)
    return facts


@lru_cache(maxsize=64)
def _of_file(part: str, path: Path) -> dict[str, Any]:
    """Hash, and mode and bit depth from the header where the file is a picture; cached, as samples may share an
    annotation file.
    """
    facts: dict[str, Any] = {f"{part}_md5": file_md5(path)}
    try:
        with Image.open(path) as picture:
            coding = picture.tile[0].args if picture.tile else None
            raw = coding if isinstance(coding, str) else str(coding[0]) if coding else ""
            bits = re.search(r";(\d+)", raw)  # raw modes are such as L;4, RGB;16B
            facts |= {
                f"{part}_mode": picture.mode,
                f"{part}_bits": int(bits[1]) if bits else {"1": 1, "I": 32, "F": 32}.get(picture.mode, 8),
            }
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # reading the sample tells what is wrong, if anything is
    return facts


def _of_mask(mask: np.ndarray, labels: LabelMap) -> dict[str, Any]:
    """Facts of a mask ``(H, W)`` in the dataset's label ids."""
    if mask.size and mask.min() >= 0 and mask.max() <= LARGEST_LABEL:
        pixels = np.bincount(mask.ravel())
        values = np.flatnonzero(pixels)
        pixels = pixels[values]
    else:
        values, pixels = np.unique(mask, return_counts=True)
    unknown = labels.unknown(values)
    known = ~np.isin(values, unknown)
    train = labels.encode(values[known]).astype(np.int64)
    void = train == labels.ignore_index
    by_class = np.bincount(train[~void], weights=pixels[known][~void], minlength=labels.num_classes)
    return {
        "mask_height": mask.shape[0],
        "mask_width": mask.shape[1],
        "values": values.tolist(),
        "unknown_labels": unknown,
        "void_share": float(pixels[known][void].sum() / mask.size),
        "class_pixels": by_class.astype(np.int64).tolist(),
    }

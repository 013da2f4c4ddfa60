"""Facts about each sample: its files are opened, decoded and measured, on all cores."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.running.parallel import parallel_map
from components.running.progress_bar import track
from components.validation.edges import edge_map
from components.validation.file_facts import no_data, of_file, voxel_shift
from components.validation.object_facts import odd_objects
from components.validation.views import by_hash, picture
from segmodels.annotations import Annotation
from segmodels.data.image_form import ImageForm
from segmodels.data.layouts import Sample
from segmodels.data.manifest import Dataset
from segmodels.data.preview import flat
from segmodels.errors import InputError
from segmodels.labels import LabelMap, UnknownLabelsError

SAMPLES_PER_TASK = 32

SHOWN, PAIRED = 12, 200
"""Samples of each split: on the contact sheet of the data docs, and those whose edge agreement is measured."""

MIN_CONTRAST = 4.0
"""Grey levels; the standard deviation of a thumbnail below which an image has too little to tell it from others by."""

FACTS = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("image", pa.string()),
        ("annotation", pa.string()),  # the first of its files, or the one with unknown labels; null: not annotated
        ("image_error", pa.string()),  # why it could not be read; then its other facts are null
        ("annotation_error", pa.string()),
        ("image_md5", pa.string()),
        ("md5s", pa.list_(pa.string())),  # of all files but the image
        ("image_mode", pa.string()),  # of the file: L, RGB, P, 1, I;16, ... as Pillow names them
        ("annotation_mode", pa.string()),
        ("annotation_format", pa.string()),  # of the file: PNG, JPEG, lossy WebP, ...; null where it is no picture
        ("alpha_alone", pa.bool_()),  # whether only the alpha of the annotation's file tells its pixels apart
        ("band_as_alpha", pa.bool_()),  # whether an image in TIFF has a band of values as alpha, which is not read
        ("image_orientation", pa.int32()),  # of EXIF or TIFF, 2..8; null for upright images
        ("pictures", pa.int32()),  # of an image that is an animation; the first one is read
        ("no_data", pa.string()),  # the value that the image's file declares to be none, where pixels have it
        ("image_bits", pa.int32()),  # per channel, in the file
        ("annotation_bits", pa.int32()),
        ("dtype", pa.string()),  # of the image
        ("highest", pa.int32()),  # value of an image of 16 bits
        ("channels", pa.int32()),
        ("size", pa.list_(pa.int32())),  # (height, width) or (depth, height, width) of the image
        ("annotation_size", pa.list_(pa.int32())),
        ("voxel_shift", pa.float64()),  # of the annotation against the image, as NIfTI's affines tell
        ("unknown_labels", pa.list_(pa.int32())),
        ("void_share", pa.float64()),  # of the pixels of the class map
        ("class_pixels", pa.list_(pa.int64())),  # by train id
        ("only_class", pa.int32()),  # train id that all pixels have, if there is one
        ("objects", pa.int32()),
        ("empty_objects", pa.int32()),  # that the dataset lists without a pixel
        ("one_pixel_objects", pa.int32()),
        ("misplaced_objects", pa.int32()),  # less than half of their pixels have their class, or it is the background
        ("doubled_objects", pa.int32()),  # of the class and the pixels of another one
        ("image_hash", pa.uint64()),  # perceptual; null for an image without contrast
    ]
)

VIEWS = pa.schema(
    [
        ("picture", pa.binary()),  # of the samples that the data docs show, as ``views.picture`` draws them
        ("edges", pa.binary()),  # of the samples whose pairing is checked, see ``edges.edge_map``
    ]
)
"""Columns that go no further than the pages; null for all samples but a bounded number."""

GATHERED = pa.unify_schemas([FACTS, VIEWS])


def gather_facts(dataset: Dataset, workers: int, positions: range | None = None) -> pa.Table:
    """One row of ``GATHERED`` per sample of the manifest, in its order.

    Args:
        workers: processes; 0 means one per core.
        positions: of the samples in the manifest. None: all.

    Raises:
        TransientError: a process was killed.
    """
    positions = range(dataset.table.num_rows) if positions is None else positions
    tasks = [positions[start : start + SAMPLES_PER_TASK] for start in range(0, len(positions), SAMPLES_PER_TASK)]
    batches = track(
        parallel_map(_measure, tasks, workers, _open, (dataset,)),
        f"opening samples, batches of {SAMPLES_PER_TASK}",
        len(tasks),
    )
    return pa.Table.from_batches(batches, schema=GATHERED)


def perceptual_hash(image: np.ndarray) -> int | None:
    """64 bits that stay the same when an image ``(*spatial, C)`` is rescaled, recompressed or slightly changed in
    colour.

    The signs of the 64 lowest frequencies of a 32x32 thumbnail's cosine transform against their median (Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions", section 3.2). None for an image without
    contrast, whose signs are noise. Of a volume the slice in the middle counts.
    """
    thumbnail = cv2.resize(_grey(image), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if thumbnail.std() < MIN_CONTRAST:
        return None
    lowest = cv2.dct(thumbnail)[1:9, 1:9].ravel()
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


_worker: dict[str, Any] = {}


def _open(dataset: Dataset) -> None:
    cv2.setNumThreads(1)
    samples = dataset.samples()
    shown, paired = (
        {position for chosen in by_hash(samples, most).values() for position in chosen} for most in (SHOWN, PAIRED)
    )
    _worker.update(dataset=dataset, samples=samples, shown=shown, paired=paired)


def _measure(positions: range) -> pa.RecordBatch:
    rows = [
        _facts(_worker["dataset"], _worker["samples"][at], at in _worker["shown"], at in _worker["paired"])
        for at in positions
    ]
    return pa.RecordBatch.from_pylist(rows, schema=GATHERED)


def _facts(dataset: Dataset, sample: Sample, shown: bool, paired: bool) -> dict[str, Any]:
    """A row of ``GATHERED``; with ``shown`` its picture, with ``paired`` its edges."""
    layout = dataset.layout
    image = annotation = None
    name = sample.annotation_file or sample.image
    facts: dict[str, Any] = {"id": sample.id, "split": sample.split, "image": sample.image, "annotation": name}
    try:
        facts |= of_file("image", layout.root / sample.image)
        pixels = layout.read_image(sample)
        facts |= _of_image(pixels, sample) | {"no_data": no_data(layout.root / sample.image, pixels)}
        image = pixels
    except InputError as error:
        facts["image_error"] = str(error)
    try:
        if sample.files:
            facts |= of_file("annotation", layout.root / sample.files[0])
            others = [of_file("", layout.root / file)["_md5"] for file in sample.files[1:]]
            facts["md5s"] = [facts.pop("annotation_md5"), *others]
        annotation = layout.annotation(sample)
        facts |= {"annotation": None} if annotation is None else _of_annotation(annotation, dataset.labels)
        if annotation is not None and sample.files:
            facts["voxel_shift"] = voxel_shift(layout.root / sample.files[0], layout.root / sample.image)
    except UnknownLabelsError as error:
        facts["unknown_labels"] = error.unknown
        if error.file in sample.files:  # not always the first
            facts |= {"annotation": error.file} | of_file("annotation", layout.root / error.file)
    except InputError as error:
        facts["annotation_error"] = str(error)
    if image is not None and (annotation is None or annotation.classes.ndim == image.ndim - 1):
        if shown:
            facts["picture"] = picture(image, annotation, dataset.labels)
        if paired and annotation is not None:
            facts["edges"] = edge_map(*flat(image, annotation.classes, ignore_index=dataset.labels.ignore_index))
    return facts


def _of_image(image: NDArray, sample: Sample) -> dict[str, Any]:
    if image.dtype.kind == "f" and (wrong := image.size - np.count_nonzero(np.isfinite(image))):
        raise InputError(f"image {sample.image} holds {wrong} values that are not finite, expected none: replace them")
    form = ImageForm.of(image)
    return {
        "dtype": form.dtype.name,
        "channels": form.channels,
        "highest": int(image.max()) if image.dtype == np.uint16 else None,
        "size": list(image.shape[:-1]),
        "image_hash": perceptual_hash(image),
    }


def _of_annotation(annotation: Annotation, labels: LabelMap) -> dict[str, Any]:
    classes = annotation.classes
    counted = classes.ravel() if labels.ignore_index >= 0 else classes[classes >= 0]
    by_class = np.bincount(counted, minlength=labels.num_classes)[: labels.num_classes]  # ignored pixels come behind
    odd = odd_objects(annotation, labels)
    return {
        "annotation_size": list(annotation.size),
        "void_share": float((classes.size - by_class.sum()) / classes.size),
        "class_pixels": by_class.tolist(),
        "only_class": int(by_class.argmax()) if by_class.max() == classes.size else None,
        "objects": len(annotation.segments),
        "empty_objects": annotation.empty,
        "one_pixel_objects": len(odd.specks),
        "misplaced_objects": len(odd.misplaced),
        "doubled_objects": len(odd.doubled),
    }


def _grey(image: NDArray) -> NDArray:
    """``(H, W)``: of RGB its luma, else the mean of the channels; other types are stretched to 0..255."""
    if image.ndim == 4:
        image = image[len(image) // 2]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image.astype(np.float32) - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    if image.shape[-1] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image.mean(axis=-1).astype(np.uint8)

"""One sample of a shard: an Arrow record batch of one row, whose pixels are views into the memory map."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segmodels.annotations import Annotation, Segment
from segmodels.data.image_form import ImageForm
from segmodels.data.runs import layer_of, runs_of
from segmodels.errors import InputError
from segmodels.labels import LabelMap

SCHEMA = 2
"""Version of the columns; a reader refuses shards of any other."""

SEGMENT = pa.struct(
    [
        ("id", pa.uint16()),
        ("label", pa.int32()),
        ("crowd", pa.bool_()),
        ("box", pa.list_(pa.float64())),  # left, top, right, bottom; null in volumes
        ("area", pa.float64()),
        ("layer", pa.uint16()),  # that its pixels are in
        ("runs", pa.binary()),  # as in runs.py
    ]
)

FURTHER = "further "
"""Begins the names of the columns of further maps."""

CHUNK = 2**22
"""Bytes of a large image that are in memory at once while its checksum is computed."""


def record_schema(labels: LabelMap) -> pa.Schema:
    """Columns of a shard; further maps have one each."""
    return _schema(tuple(labels.further))


@lru_cache(maxsize=8)
def _schema(further: tuple[str, ...]) -> pa.Schema:
    maps = [pa.field(FURTHER + name, pa.large_binary()) for name in further]
    return pa.schema(
        [
            ("id", pa.string()),
            ("size", pa.list_(pa.int32())),  # (height, width) or (depth, height, width)
            ("image", pa.large_binary()),  # (*size, channels) in the shards' dtype
            ("map_size", pa.list_(pa.int32())),  # of the annotation, which may be larger than the image
            ("classes", pa.large_binary()),  # (*map_size) in labels.dtype; null: not annotated
            *maps,  # (*map_size) each, in the type of its own label map
            ("segments", pa.list_(SEGMENT)),
            ("layers", pa.int32()),
            ("image_label", pa.int32()),  # class of the whole image, null where the dataset has none
            ("spacing", pa.list_(pa.float64())),  # mm along each axis of the map, null for photographs
            ("crc", pa.uint32()),  # of all of the above: see ``checksum``
        ],
        metadata={"segmodels.schema": str(SCHEMA)},
    )


@lru_cache(maxsize=8)
def _pixel_columns(further: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(field.name for field in _schema(further) if pa.types.is_large_binary(field.type))


def encode(
    sample_id: str, image: NDArray, annotation: Annotation | None, image_label: int | None, labels: LabelMap
) -> pa.RecordBatch:
    """A sample as a record batch of one row.

    Args:
        image: ``(*spatial, C)``.
        annotation: in train ids; None: not annotated.
        image_label: of the whole image.

    Raises:
        InputError: the annotation and the label map have different further maps.
    """
    size: tuple[int, ...] = image.shape[:-1]
    maps: dict[str, NDArray | None] = dict.fromkeys(["classes", *(FURTHER + name for name in labels.further)])
    if annotation is not None:
        if annotation.further.keys() != labels.further.keys():
            raise InputError(
                f"sample {sample_id!r} has the further maps {sorted(annotation.further)}, expected"
                f" {sorted(labels.further)} as in the label map: correct the layout"
            )
        size = annotation.size
        maps["classes"] = np.ascontiguousarray(annotation.classes, labels.dtype)
        for name, own in labels.further.items():
            maps[FURTHER + name] = np.ascontiguousarray(annotation.further[name], own.dtype)
    small = {
        "id": sample_id,
        "size": list(image.shape[:-1]),
        "map_size": list(size),
        "segments": _segments(annotation),
        "layers": 0 if annotation is None else len(annotation.layers),
        "image_label": image_label,
        "spacing": None if annotation is None or annotation.spacing is None else list(map(float, annotation.spacing)),
    }
    image = np.ascontiguousarray(image)
    schema = record_schema(labels)
    columns = {name: _binary(pixels) for name, pixels in {"image": image, **maps}.items()}
    rows = {name: pa.array([value], schema.field(name).type) for name, value in small.items()}
    small = {name: row[0].as_py() for name, row in rows.items()}  # as a reader sees them
    parts = [image, *(labels_of for labels_of in maps.values() if labels_of is not None)]
    crc = pa.array([checksum(small, (pa.py_buffer(part) for part in parts))], pa.uint32())
    columns |= rows | {"crc": crc}
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def checksum(small: dict[str, Any], parts: Iterable[pa.Buffer]) -> int:
    """CRC-32 of a record: the values of its small columns, then the bytes of its image and maps."""
    crc = zlib.crc32(repr(sorted(small.items())).encode())
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


class Record:
    """A row of a shard, read by the names of its columns.

    Raises:
        ValueError: from any method, for a record that does not hold together.
    """

    def __init__(self, batch: pa.RecordBatch, labels: LabelMap, form: ImageForm) -> None:
        self._batch = batch
        self._labels = labels
        self._form = form

    def value(self, name: str) -> Any:
        """The value in a small column."""
        return self._batch.column(name)[0].as_py()

    @cached_property
    def size(self) -> tuple[int, ...]:
        """``(*spatial)`` of the image."""
        return tuple(self.value("size"))

    @property
    def image(self) -> NDArray:
        """View ``(*spatial, C)``."""
        return self._view("image", (*self.size, self._form.channels), self._form.dtype)

    @property
    def annotated(self) -> bool:
        return self._batch.column("classes").null_count == 0

    def annotation(self, objects: bool = True) -> Annotation:
        """Classes and further maps are views; without annotation everything is ignored.

        Args:
            objects: False leaves layers and segments out.
        """
        labels, size = self._labels, tuple(self.value("map_size"))
        own = {"classes": labels} | {FURTHER + name: further for name, further in labels.further.items()}
        if self.annotated:
            maps = {name: self._view(name, size, map_labels.dtype) for name, map_labels in own.items()}
        else:
            maps = {name: np.full(size, other.ignore_index, other.dtype) for name, other in own.items()}
        spacing = self.value("spacing")
        layers, segments = self._objects(size) if objects else (np.zeros((0, *size), np.uint16), ())
        return Annotation(
            maps.pop("classes"),
            layers,
            segments,
            {name.removeprefix(FURTHER): map for name, map in maps.items()},
            self.value("image_label"),
            None if spacing is None else tuple(spacing),
        )

    def check(self, file: mmap.mmap) -> None:
        """Compare the record with its checksum; a large record is read in parts.

        Args:
            file: the map that the record is in.

        Raises:
            ValueError: it has changed since it was written.
        """
        self._batch.validate(full=True)
        large = _pixel_columns(tuple(self._labels.further))
        small = {name: self.value(name) for name in self._batch.schema.names if name not in (*large, "crc")}
        buffers = [self._batch.column(name) for name in large]
        parts = (part for column in buffers if not column.null_count for part in _chunks(_values(column), file))
        if checksum(small, parts) != self.value("crc"):
            raise ValueError(f"sample {small['id']!r} is not as it was written, its checksum differs")

    def _objects(self, size: Sequence[int]) -> tuple[NDArray[np.uint16], tuple[Segment, ...]]:
        layers = np.zeros((self.value("layers"), *size), np.uint16)
        rows = self.value("segments") if len(layers) else []
        for number, layer in enumerate(layers):
            if runs := {row["id"]: row["runs"] for row in rows if row["layer"] == number}:
                layer[...] = layer_of(runs, size)
        segments = (
            Segment(row["id"], row["label"], row["crowd"], row["box"] and tuple(row["box"]), row["area"])
            for row in rows
        )
        return layers, tuple(segments)

    def _view(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        view = np.frombuffer(_values(self._batch.column(name)), dtype=dtype)
        if view.size != np.prod(shape):
            raise ValueError(f"{view.size} values for the shape {shape}")
        return view.reshape(shape)


def _segments(annotation: Annotation | None) -> list[dict[str, Any]]:
    if annotation is None:
        return []
    rows = []
    runs = [runs_of(layer) for layer in annotation.layers]
    for segment in annotation.segments:
        layer = next((number for number, found in enumerate(runs) if segment.id in found), None)
        if layer is None:
            continue  # a row without a pixel
        box = None if segment.box is None else [float(edge) for edge in segment.box]
        area = None if segment.area is None else float(segment.area)
        rows.append(segment._asdict() | {"box": box, "area": area, "layer": layer, "runs": runs[layer][segment.id]})
    return rows


def _binary(array: NDArray | None) -> pa.LargeBinaryArray:
    """One binary value over the array's memory, not copied."""
    if array is None:
        return pa.array([None], pa.large_binary())
    offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])


def _values(column: pa.LargeBinaryArray) -> pa.Buffer:
    """The buffer of the one value; a scalar's as_buffer() would copy."""
    return column.buffers()[2]


def _chunks(buffer: pa.Buffer, file: mmap.mmap) -> Iterable[pa.Buffer]:
    """The buffer in parts; those of a large one leave memory after their use."""
    if buffer.size <= CHUNK:
        yield buffer
        return
    start = buffer.address - np.frombuffer(file, np.uint8).ctypes.data
    for offset in range(0, buffer.size, CHUNK):
        yield buffer.slice(offset, min(CHUNK, buffer.size - offset))
        if hasattr(mmap, "MADV_DONTNEED"):  # the pages stay in the system's cache
            first = (start + offset) // mmap.PAGESIZE * mmap.PAGESIZE
            file.madvise(mmap.MADV_DONTNEED, first, min(start + offset + CHUNK, len(file)) - first)

"""Masks and overlays as files that other programs open; each gets its name once it is complete."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from components.running.atomic import written_file
from segmodels.errors import InputError

if TYPE_CHECKING:
    from segmodels.data.large_images import ImageRows
    from segmodels.labels import LabelMap

CLASSES = "classes.csv"
"""Of the results, written before all others."""

TILE = 512  # pixels
OVERLAY_SIDE = 4096  # pixels: the longer side of the overlay of a large image
JPEG_QUALITY, ALPHA = 90, 0.5  # of overlays


def require_own_masks(out: Path) -> None:
    """Raise InputError where the masks in ``out`` are not of an earlier ``predict``."""
    masks = out / "masks"
    if masks.is_dir() and any(masks.iterdir()) and not (out / CLASSES).is_file():
        raise InputError(
            f"{masks} holds files but {out} no {CLASSES}, so they are not of predict, which would replace them: give"
            " another --out"
        )


def write_classes(out: Path, labels: LabelMap) -> None:
    """``CLASSES``: id, class and colour."""
    with (
        written_file(out / CLASSES) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "class", "red", "green", "blue"])
        table.writerows(
            [i, name, *color] for i, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True))
        )


def write(out: Path, source: Path, path: Path, image: np.ndarray, result: Any, labels: LabelMap) -> None:
    """masks/NAME.png (or the files of another task's result) and overlays/NAME.jpg of an image (*spatial, C) and its
    result. The class map of a GeoTIFF is masks/NAME.tif with the same georeference; a world file beside the image is
    copied.

    Args:
        source: the image's file, or the first of its files.
        path: that gives the results their names.
    """
    from segmodels.data.georeference import files_beside, georeference
    from segmodels.data.nifti import is_nifti, stem
    from segmodels.data.preview import as_rgb
    from segmodels.results import ClassMap

    name = path.with_name(stem(path))
    if is_nifti(path):
        _save_nifti(result.classes, source, out / "masks" / name.with_name(f"{name.name}.nii.gz"))
    elif isinstance(result, ClassMap) and (tags := georeference(source)):
        size = result.classes.shape[0], result.classes.shape[1]
        _save_tiles(result.classes, size, out / "masks" / path.with_suffix(".tif"), labels, tags)
    else:
        files = result.files(labels)
        beside = files_beside(source, ".png") if ".png" in files else {}
        for suffix, content in (files | beside).items():
            _write(content, out / "masks" / path.with_suffix(suffix))
    _save_jpeg(result.draw(as_rgb(image), labels, ALPHA), out / "overlays" / name.with_name(f"{name.name}.jpg"))


def write_large(
    out: Path, folder: Path, path: Path, image: ImageRows, mask: Iterable[np.ndarray], labels: LabelMap
) -> None:
    """masks/NAME.tif, tiled and deflated, with the image's georeference if it has one, and overlays/NAME.jpg of at most
    ``OVERLAY_SIDE`` pixels; ``mask``: rows (W,) from the top down.
    """
    from segmodels.data.georeference import files_beside, georeference
    from segmodels.data.large_images import shrink
    from segmodels.plots import blend

    rows, columns = (
        ((np.arange(shown) + 0.5) * length / shown).astype(int)
        for length, shown in zip((image.height, image.width), _overlay_size(image), strict=True)
    )
    small_mask = np.empty((len(rows), len(columns)), dtype=labels.dtype)

    def watched() -> Iterator[np.ndarray]:
        place = {row: index for index, row in enumerate(rows.tolist())}
        for number, row in enumerate(mask):
            if number in place:
                small_mask[place[number]] = row[columns]
            yield row

    size, tags = (image.height, image.width), georeference(folder / path)
    _save_tiles(watched(), size, out / "masks" / path.with_suffix(".tif"), labels, tags)
    for suffix, content in files_beside(folder / path, ".tif").items():
        _write(content, out / "masks" / path.with_suffix(suffix))
    overlay = blend(shrink(image, len(rows), len(columns)), small_mask, labels, ALPHA)
    _save_jpeg(overlay, out / "overlays" / path.with_suffix(".jpg"))


def write_large_result(out: Path, path: Path, image: ImageRows, result: Any, labels: LabelMap) -> None:
    """The files of a result other than a class map, and overlays/NAME.jpg of at most ``OVERLAY_SIDE`` pixels."""
    from segmodels.data.large_images import shrink

    for suffix, content in result.files(labels).items():
        _write(content, out / "masks" / path.with_suffix(suffix))
    size = _overlay_size(image)
    _save_jpeg(
        result.resized(size).draw(shrink(image, *size), labels, ALPHA), out / "overlays" / path.with_suffix(".jpg")
    )


def _overlay_size(image: ImageRows) -> tuple[int, int]:
    scale = min(OVERLAY_SIDE / max(image.height, image.width), 1)
    return max(round(image.height * scale), 1), max(round(image.width * scale), 1)


def _save_nifti(classes: np.ndarray, like: Path, path: Path) -> None:
    from segmodels.data.nifti import write_nifti

    with written_file(path) as partial:
        write_nifti(partial, classes, like)


def _save_jpeg(picture: np.ndarray, path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=JPEG_QUALITY)
    _write(data.getvalue(), path)


def _write(content: bytes, path: Path) -> None:
    with written_file(path) as partial:
        partial.write_bytes(content)


def _save_tiles(
    mask: Iterable[np.ndarray], size: tuple[int, int], path: Path, labels: LabelMap, tags: Sequence[tuple[Any, ...]]
) -> None:
    """Rows (W,) of a mask as a tiled file; ``tags`` are further ones, as tifffile takes them."""
    import tifffile

    dtype, photometric, colors = np.dtype(np.uint16), "minisblack", None
    if labels.dtype == np.uint8:
        dtype, photometric, colors = labels.dtype, "palette", np.zeros((3, 256), dtype=np.uint16)
        colors[:, : labels.num_classes] = (
            np.array(labels.palette, dtype=np.uint16).T * 257
        )  # TIFF's colours have 16 bits
    with written_file(path) as partial, tifffile.TiffWriter(partial, bigtiff=size[0] * size[1] > 2**31) as file:
        file.write(
            _tiles(mask, size, dtype),
            shape=size,
            dtype=dtype,
            photometric=photometric,
            colormap=colors,
            tile=(TILE, TILE),
            compression="zlib",
            extratags=tags,
            metadata=None,
            maxworkers=1,
        )


def _tiles(mask: Iterable[np.ndarray], size: tuple[int, int], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Tiles from left to right and from the top down, filled up with 0."""
    height, width = size
    strip: np.ndarray = np.zeros((TILE, -(-width // TILE) * TILE), dtype=dtype)
    for index, row in enumerate(mask):
        strip[index % TILE, :width] = row
        if index % TILE == TILE - 1 or index == height - 1:
            strip[index % TILE + 1 :] = 0
            for left in range(0, strip.shape[1], TILE):
                yield strip[:, left : left + TILE].copy()

"""Files that state absurd sizes are refused before memory is spent on them."""

import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
import tifffile

from segmodels.data.decoding import read_mask, read_pages, read_pixels
from segmodels.data.layouts import open_layout
from segmodels.data.nifti import read_label_volume, read_volume
from segmodels.errors import InputError


def png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def tiff(path: Path, width: int, height: int) -> Path:
    """Of 16 bits and four channels, with a few bytes of data."""
    tifffile.imwrite(path, np.zeros((16, 16, 4), np.uint16), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags["ImageWidth"].overwrite(width)
        file.pages.first.tags["ImageLength"].overwrite(height)
    return path


def nifti(path: Path, *size: int) -> Path:
    trees.save_nifti(path, np.zeros((2, 2, 2), np.uint8))
    data = bytearray(path.read_bytes())
    data[40:56] = struct.pack("<8h", 3, *size, 1, 1, 1, 1)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("read", "write", "sentence"),
    [
        (read_pixels, lambda path: png(path / "a.png", 10**5, 10**5), "more than 179 million pixels"),
        (read_mask, lambda path: png(path / "a.png", 10**5, 10**5), "more than 179 million pixels"),
        (read_pages, lambda path: png(path / "a.png", 10**5, 10**5), "more than 179 million pixels"),
        (
            read_pixels,
            lambda path: tiff(path / "a.tif", 10**5, 10**5),
            r"more than 179 million pixels \(100000x100000\)",
        ),
        (read_volume, lambda path: nifti(path / "a.nii", 32000, 32000, 32000), "states the size .* expected at most"),
        (
            read_label_volume,
            lambda path: nifti(path / "a.nii", 32000, 32000, 300),
            "states the size .* expected at most",
        ),
    ],
)
def test_an_absurd_size_is_refused_without_memory(read, write, sentence, tmp_path: Path) -> None:
    path = write(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=sentence):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(10**9, 10**9), (0, 5), (-4, 5)])
def test_absurd_sizes_in_json_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    rows = trees.coco_rows()
    rows["images"][0] |= {"height": size[0], "width": size[1]}
    trees.cvat(tmp_path / "coco")
    (tmp_path / "coco" / "annotations" / "instances_default.json").write_text(json.dumps(rows))
    trees.labelme(tmp_path / "labelme")
    content = json.loads((tmp_path / "labelme" / "0.json").read_text())
    content |= {"imageHeight": size[0], "imageWidth": size[1]}
    (tmp_path / "labelme" / "0.json").write_text(json.dumps(content))
    for name, folder in (("coco_export", "coco"), ("labelme", "labelme")):
        layout = open_layout(name, tmp_path / folder)
        with pytest.raises(InputError, match=r"million pixels|sides of at least 1"):
            layout.annotation(next(iter(layout.samples())))

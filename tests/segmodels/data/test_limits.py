"""Files that state absurd sizes are refused before memory is spent on them."""

import gzip
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest
import tifffile
from PIL import Image

from segmodels.data.decoding import read_pixels
from segmodels.data.label_files import read_mask, read_pages
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


def bombs(folder: Path) -> list[str]:
    """Small files that state huge contents, or hold them deflated."""

    def patched(name: str, kind: str, place: bytes, offset: int, size: bytes, **options) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, kind, **options)
        data = bytearray(buffer.getvalue())
        start = data.index(place) + offset
        data[start : start + len(size)] = size
        (folder / name).write_bytes(data)

    patched("a.jpg", "JPEG", b"\xff\xc0", 5, struct.pack(">HH", 60_000, 60_000))
    patched("screen.gif", "GIF", b"GIF", 6, struct.pack("<HH", 60_000, 60_000))
    patched("frame.gif", "GIF", b",", 5, struct.pack("<HH", 60_000, 60_000))
    patched("a.bmp", "BMP", b"BM", 18, struct.pack("<ii", 60_000, 60_000))
    frames = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), (9, 9, 9))], "lossless": True}
    patched("a.webp", "WEBP", b"VP8X", 12, struct.pack("<I", 16_383)[:3] * 2, **frames)
    png(folder / "a.png", 60_000, 60_000)
    tiff(folder / "a.tif", 60_000, 60_000)
    (folder / "a.pgm").write_bytes(b"P5 60000 60000 255\n")
    nifti(folder / "whole.nii", 32_000, 32_000, 32_000)
    nifti(folder / "part.nii", 1000, 1000, 1000)
    for name in ("whole.nii", "part.nii"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    inner = struct.pack("<2I", 14, 2**31)
    deflated = zlib.compress(inner + bytes(10_000))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM"
    (folder / "a.mat").write_bytes(head + struct.pack("<2I", 15, len(deflated)) + deflated)
    return sorted(path.name for path in folder.iterdir())


READER = """
import resource, sys
from pathlib import Path
import scipy.io, tifffile
from segmodels.data.decoding import read_pixels
from segmodels.data.label_files import read_mask
from segmodels.data.matlab import matlab_variable
from segmodels.data.nifti import is_nifti, read_label_volume, read_volume
from segmodels.errors import InputError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    matlab = path.suffix == ".mat"
    readers = [read_volume, read_label_volume] if is_nifti(path) else [read_pixels, read_mask]
    for read in [lambda path: matlab_variable(path, "mask")] if matlab else readers:
        try:
            read(path)
        except InputError as error:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(path.name, grown // 1024, "\\n" in str(error))
"""


def test_bombs_are_refused_before_memory_is_spent(tmp_path: Path) -> None:
    names = bombs(tmp_path)
    out = subprocess.run([sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, check=True)
    rows = [line.split() for line in out.stdout.splitlines()]
    assert sorted({name for name, _, _ in rows}) == names
    assert len(rows) == 2 * len(names) - 1
    assert max(int(megabytes) for _, megabytes, _ in rows) < 64, out.stdout
    assert {two_lines for _, _, two_lines in rows} == {"False"}

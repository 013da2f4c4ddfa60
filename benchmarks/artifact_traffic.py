"""What a dataset costs between pods, as folder and as archive: ``python -m benchmarks.artifact_traffic``.

Counts the requests of Kubeflow's launcher (2.17, backend/src/v2/objectstore/object_store.go): one after another, a PUT
or GET per file and a listing per 1000 files; a file above 5 MB goes up in parts, five at once. The time of requests is
computed, that of packing and unpacking measured. ingest uploads the dataset, validate and preprocess download it.
"""

import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import markdown_table
from components.kubeflow.packed import pack, unpack

LATENCY = 0.02
"""Seconds a request."""
BANDWIDTH = 200e6
"""Bytes a second."""
PART = 5 * 2**20
IMAGE, MASK = 25_000, 5_000
"""Bytes."""


def upload_seconds(sizes: list[int]) -> float:
    """One file after another."""
    requests = sum(1 if size <= PART else 2 + math.ceil(math.ceil(size / PART) / 5) for size in sizes)
    return requests * LATENCY + sum(sizes) / BANDWIDTH


def download_seconds(sizes: list[int]) -> float:
    return (math.ceil(len(sizes) / 1000) + len(sizes)) * LATENCY + sum(sizes) / BANDWIDTH


def write_dataset(folder: Path, images: int) -> list[int]:
    """As many images with masks; their sizes in bytes."""
    for kind, size in (("images", IMAGE), ("masks", MASK)):
        (folder / kind).mkdir(parents=True)
        for number in range(images):
            (folder / kind / f"{number:06}.png").write_bytes(os.urandom(size))
    return [IMAGE] * images + [MASK] * images


def main(images: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        sizes = write_dataset(work / "dataset", images)
        start = time.monotonic()
        pack(work / "dataset", work / "archive")
        packing = time.monotonic() - start
        shutil.rmtree(work / "dataset")
        start = time.monotonic()
        unpack(work / "archive", work / "again")
        unpacking = time.monotonic() - start
        archive = [(work / "archive").stat().st_size]
    rows = [
        ["folder", len(sizes), (upload_seconds(sizes) + 2 * download_seconds(sizes)) / 60],
        ["archive", 1, (packing + upload_seconds(archive) + 2 * (download_seconds(archive) + unpacking)) / 60],
    ]
    print(f"{images:,} images with masks, {sum(sizes) / 1e9:.1f} GB, {1000 * LATENCY:.0f} ms a request")
    print(f"packing {packing:.0f} s, unpacking {unpacking:.0f} s")
    print(markdown_table(["dataset as", "files", "minutes, 1 upload and 2 downloads"], rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)

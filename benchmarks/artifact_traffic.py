"""What a dataset costs between pods, as folder and as archive: ``python -m benchmarks.artifact_traffic``.

The store answers after 20 ms and sends 200 MB/s (tests/slow_store.py). Files travel as Kubeflow's launcher sends them
(2.17, backend/src/v2/objectstore/object_store.go): one after another, those above 5 MB in parts, five at once. ingest
uploads the dataset, validate and preprocess download it. Of the folder, ``SAMPLE`` files travel, and the others are
taken to last as long. Its listings, one request for 1000 files, are left out.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from benchmarks.report import markdown_table
from components.kubeflow.packed import pack, unpack
from tests.slow_store import Store, slow_store

LATENCY = 0.02
"""Seconds a request."""
BANDWIDTH = 200e6
"""Bytes a second."""
PARTS = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20, max_concurrency=5)
IMAGE, MASK = 25_000, 5_000
"""Bytes."""
SAMPLE = 1000
"""Files of the folder that travel."""


def write_dataset(folder: Path, images: int) -> None:
    """As many images with masks."""
    for kind, size in (("images", IMAGE), ("masks", MASK)):
        (folder / kind).mkdir(parents=True)
        for number in range(images):
            (folder / kind / f"{number:06}.png").write_bytes(os.urandom(size))


def main(images: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work, bucket = Path(temporary), Path(temporary) / "store" / "bucket"
        bucket.mkdir(parents=True)
        with slow_store(bucket.parent, LATENCY, BANDWIDTH) as store:
            client = s3_client(store)
            seconds: dict[str, float] = {}
            write_dataset(work / "dataset", images)
            sample = [
                one for kind in ("images", "masks") for one in islice((work / "dataset" / kind).iterdir(), SAMPLE // 2)
            ]
            upload, download = travel(client, sample, work)
            per_folder = 2 * images / len(sample)
            shutil.rmtree(bucket)
            bucket.mkdir()
            with timed(seconds, "packing"):
                pack(work / "dataset", work / "archive")
            shutil.rmtree(work / "dataset")
            archive_upload, archive_download = travel(client, [work / "archive"], work)
            with timed(seconds, "unpacking"):
                unpack(work / "archive", work / "again")
    rows = [
        row("folder", 2 * images, 0.0, upload * per_folder, download * per_folder, 0.0),
        row("archive", 1, seconds["packing"], archive_upload, archive_download, seconds["unpacking"]),
    ]
    print(f"{images:,} images with masks, {images * (IMAGE + MASK) / 1e9:.1f} GB, {1000 * LATENCY:.0f} ms a request\n")
    head = ["dataset as", "files", "packing, s", "upload, s", "download, s", "unpacking, s"]
    print(markdown_table([*head, "minutes, 1 upload and 2 downloads"], rows))


def row(name: str, files: int, packing: float, upload: float, download: float, unpacking: float) -> list[object]:
    minutes = (packing + upload + 2 * (download + unpacking)) / 60
    return [name, files, packing, upload, download, unpacking, minutes]


def s3_client(store: Store) -> Any:
    os.environ.update(store.environment)
    return boto3.client("s3", region_name="us-east-1", config=Config(request_checksum_calculation="when_required"))


def travel(client: Any, files: Iterable[Path], work: Path) -> tuple[float, float]:
    """Seconds to upload the files, one after another, and to download them."""
    seconds: dict[str, float] = {}
    keys = {f"{number}-{path.name}": path for number, path in enumerate(files)}
    with timed(seconds, "upload"):
        for key, path in keys.items():
            client.upload_file(str(path), "bucket", key, Config=PARTS)
    with timed(seconds, "download"):
        for key in keys:
            with (work / "downloaded").open("wb") as file:
                shutil.copyfileobj(client.get_object(Bucket="bucket", Key=key)["Body"], file, 2**20)
    return seconds["upload"], seconds["download"]


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)

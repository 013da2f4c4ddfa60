"""Folders on their way between the step and the pods of its TrainJob, through the object store that holds the
checkpoints.

Shards lie under the digest of their bytes: those of a training that is started again are there already. A model lies
    under its
TrainJob's name, and is removed when the step has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.datasets.download_cache import THREADS
from components.environment import environment, variable
from components.running.digests import folder_digest
from components.running.progress_bar import track
from components.storage.s3 import s3_client, sentences
from segmodels.errors import InputError, TransientError


def exchange_url() -> str:
    """``s3://bucket/prefix`` of the checkpoints.

    Raises:
        InputError: there is none.
    """
    url = environment().checkpoints
    if not url.startswith("s3://"):
        raise InputError(
            "training on several processes passes shards and weights through an object store,"
            f" {variable('checkpoints')} is {url!r}: set checkpoints in the profile to s3://bucket/prefix"
        )
    return url.rstrip("/")


def put_shards(folder: Path) -> str:
    """Upload what is not there yet; where it is, ``s3://...``."""
    url = f"{exchange_url()}/shards/{folder_digest(folder)}"
    put_folder(folder, url)
    return url


def put_folder(folder: Path, url: str) -> None:
    """Upload the files below ``folder`` that ``url`` does not hold at their size.

    Raises:
        InputError: the store refuses or is not there.
        TransientError: the store does not answer.
    """
    from boto3.exceptions import Boto3Error

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = s3_client()
    with sentences(url, connected=False):
        stored = dict(_stored(client, bucket, prefix))
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    missing = [name for name, path in files.items() if stored.get(name) != path.stat().st_size]

    def put(name: str) -> None:
        try:
            with sentences(f"{url}/{name}", connected=True):
                client.upload_file(str(files[name]), bucket, f"{prefix}/{name}")
        except Boto3Error as error:  # of the transfer manager, around what the server said
            raise TransientError(f"{url}/{name} cannot be stored ({' '.join(str(error).split())})") from None

    with ThreadPoolExecutor(THREADS) as pool:
        list(track(pool.map(put, missing), "uploading", len(missing)))


def remove_folder(url: str) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = s3_client()
    with sentences(url, connected=True):
        for name, _ in list(_stored(client, bucket, prefix)):
            client.delete_object(Bucket=bucket, Key=f"{prefix}/{name}")


def _stored(client: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        yield from ((entry["Key"].removeprefix(f"{prefix}/"), entry["Size"]) for entry in page.get("Contents", []))

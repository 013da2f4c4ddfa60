"""Folders in an object store: shards that are read from there, and what the train step and the pods of its TrainJob
exchange.

Shards lie under the digest of their bytes, so a step that starts again finds them. A model lies under the name of its
TrainJob and is removed when the step has fetched it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.environment import environment, variable
from components.running.digests import folder_digest
from components.running.progress_bar import track
from components.storage.s3 import SCHEME, THREADS, list_folder, s3_client, split_url, translate_errors
from segmodels.errors import InputError
from segmodels.files import SHARD_PART, STATISTICS, read_json


def exchange_url() -> str:
    """``s3://bucket/prefix`` of the checkpoints.

    Raises:
        InputError: there is none.
    """
    url = environment().checkpoints
    if not url.startswith(SCHEME):
        raise InputError(
            "training on several processes passes shards and weights through an object store, but"
            f" {variable('checkpoints')} is {url!r}: set checkpoints in the profile to s3://bucket/prefix"
        )
    return url.rstrip("/")


def put_shards(folder: Path, check: Callable[[], None] = lambda: None) -> str:
    """Upload the files that the store lacks; their address, ``s3://...``. ``check``: see ``put_folder``."""
    url = f"{exchange_url()}/shards/{folder_digest(folder)}"
    put_folder(folder, url, check)
    return url


def keep_in_store(shards: Path, store: str) -> str:
    """Move the shards in a folder to an object store; statistics.json, or part.json, stays and says where they are.

    Args:
        shards: folder that ``ShardWriter`` completed.
        store: ``s3://bucket/prefix``.

    Returns:
        Their address: ``store`` and the digest of their bytes.

    Raises:
        InputError: the store refuses or is not there.
        TransientError: the store does not answer.
    """
    url = f"{store.rstrip('/')}/{folder_digest(shards)}"
    put_folder(shards, url)
    for name in (STATISTICS, SHARD_PART):
        if (path := shards / name).is_file():
            facts = read_json(path, "preprocess")
            for file in [file for files in facts["shards"].values() for file in files]:
                file["url"] = url
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for path in shards.glob("*.arrow"):
        path.unlink()
    return url


def put_folder(folder: Path, url: str, check: Callable[[], None] = lambda: None) -> None:
    """Upload the files below ``folder`` that ``url`` does not hold at their size.

    Args:
        check: called after each file; an exception of it ends the upload once the files in transfer are stored.

    Raises:
        InputError: the store refuses or is not there.
        TransientError: the store does not answer.
    """
    bucket, prefix = split_url(url)
    client = s3_client()
    with translate_errors(url, connected=False):
        stored = {name: entry["Size"] for name, entry in list_folder(client, url)}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    missing = [name for name, path in files.items() if stored.get(name) != path.stat().st_size]

    def put(name: str) -> None:
        with translate_errors(f"{url}/{name}", connected=True, access="stored"):
            client.upload_file(str(files[name]), bucket, prefix + name)

    pool = ThreadPoolExecutor(THREADS)
    try:
        for _ in track(pool.map(put, missing), "uploading", len(missing)):
            check()
    finally:
        pool.shutdown(cancel_futures=True)


def remove_folder(url: str) -> None:
    """Delete the objects below ``url``.

    Raises:
        InputError: the store refuses.
        TransientError: the store does not answer.
    """
    bucket, _ = split_url(url)
    client = s3_client()
    with translate_errors(url, connected=True):
        for _, entry in list(list_folder(client, url)):
            client.delete_object(Bucket=bucket, Key=entry["Key"])

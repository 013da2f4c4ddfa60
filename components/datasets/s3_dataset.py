"""Datasets in S3: every file is compared with the size and the checksum or ETag that the store says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from components.datasets.download_cache import DownloadCache, RemoteFile
from components.running.digests import file_md5
from components.storage.s3 import list_folder, s3_client, split_url, translate_errors
from segmodels.errors import InputError, TransientError

CHUNK = 2**20
WHOLE_FILE_CHECKSUMS = ("ChecksumCRC32", "ChecksumSHA1", "ChecksumSHA256")
"""Those that botocore compares with the bytes by itself while they are read."""


def download(url: str, cache: DownloadCache) -> tuple[Path, dict[str, str]]:
    """The folder that holds the files under ``s3://bucket/prefix``, and the md5 of each.

    Each file is checked against its size and its checksum or ETag. What the cache holds already is not transferred
    again.

    Raises:
        InputError: no or wrong credentials, no such bucket or endpoint, nothing under the prefix.
        TransientError: the network or the server failed, after retries.
    """
    bucket, prefix = split_url(url)
    with translate_errors(url, connected=False):
        client = s3_client()
        objects = dict(list_folder(client, url))
    if not objects:
        raise InputError(
            f"{url} holds no files: check bucket and prefix, expected the dataset's folders right under it"
        )

    def fetch(file: RemoteFile, target: Path) -> None:
        with translate_errors(f"s3://{bucket}/{prefix}{file.path}", connected=True):
            _get(client, bucket, objects[file.path], target)

    return cache.dataset([RemoteFile(path, entry["ETag"].strip('"')) for path, entry in objects.items()], fetch)


def _get(client: Any, bucket: str, entry: dict[str, Any], target: Path) -> None:
    """Write one object to ``target``, the very bytes that were listed."""
    place = f"s3://{bucket}/{entry['Key']}"
    response = client.get_object(Bucket=bucket, Key=entry["Key"], IfMatch=entry["ETag"])
    with target.open("wb") as file:
        for chunk in response["Body"].iter_chunks(CHUNK):
            file.write(chunk)
    if (size := target.stat().st_size) != entry["Size"]:
        raise TransientError(f"received {size} bytes of {place}, expected {entry['Size']}")
    checked = any(
        "-" not in response.get(name, "-") for name in WHOLE_FILE_CHECKSUMS
    )  # with a dash it is one of the parts' checksums
    if not checked and _etag_is_md5(response) and not _matches_etag(client, bucket, entry, target):
        raise TransientError(f"the bytes received of {place} do not have its ETag {entry['ETag']}")


def _etag_is_md5(response: dict[str, Any]) -> bool:
    """Whether the ETag is made of md5s: not where S3 encrypts with a key of its customer."""
    return not response.get("ServerSideEncryption", "").startswith("aws:kms") and "SSECustomerAlgorithm" not in response


def _matches_etag(client: Any, bucket: str, entry: dict[str, Any], path: Path) -> bool:
    """Compare with the md5, or for an object uploaded in parts with the md5 of the parts' md5s."""
    etag = entry["ETag"].strip('"')
    if "-" not in etag:
        return file_md5(path) == etag
    count = int(etag.rpartition("-")[2])

    def part_size(number: int) -> int:
        return client.head_object(Bucket=bucket, Key=entry["Key"], IfMatch=entry["ETag"], PartNumber=number)[
            "ContentLength"
        ]

    first = part_size(1)  # all parts but the last are of one size, unless an unusual client uploaded them
    return (
        _parts_etag(path, [first] * count) == etag
        or _parts_etag(path, [first, *map(part_size, range(2, count + 1))]) == etag
    )


def _parts_etag(path: Path, sizes: list[int]) -> str:
    md5s = []
    with path.open("rb") as file:
        for size in sizes:
            md5 = hashlib.md5(usedforsecurity=False)
            while size and (chunk := file.read(min(size, CHUNK))):
                md5.update(chunk)
                size -= len(chunk)
            md5s.append(md5.digest())
    return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(sizes)}"

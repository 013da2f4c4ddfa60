"""Datasets in S3 and in stores that speak its protocol, through boto3.

Credentials, region and endpoint come from the environment or the user's AWS configuration, as for every AWS tool
(``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, ``AWS_DEFAULT_REGION``, ``AWS_ENDPOINT_URL``,
``AWS_MAX_ATTEMPTS``, ...).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.datasets.download_cache import THREADS, RemoteFile, Store
from components.running.digests import file_md5
from components.running.wording import as_clause
from segmodels.errors import InputError, TransientError

CHUNK = 2**20
WHOLE_FILE_CHECKSUMS = ("ChecksumCRC32", "ChecksumSHA1", "ChecksumSHA256")
"""Those that botocore compares with the bytes by itself while they are read."""

PASSING = (
    "SlowDown",
    "Throttling",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "PreconditionFailed",
    "NoSuchKey",
)
"""Error codes that may be gone at the next attempt; the last two are of objects that changed after they were listed."""


def download(url: str, store: Store) -> tuple[Path, dict[str, str]]:
    """The folder that holds the files under ``s3://bucket/prefix``, and the md5 of each.

    Each file is checked against its size and its checksum or ETag. What the store holds already is not transferred
    again.

    Raises:
        InputError: no or wrong credentials, no such bucket or endpoint, nothing under the prefix.
        TransientError: the network or the server failed, after retries.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    with sentences(url, connected=False):
        client = s3_client()
        objects = {entry["Key"].removeprefix(prefix): entry for entry in _list(client, bucket, prefix)}
    if not objects:
        raise InputError(
            f"{url} holds no files: check bucket and prefix, expected the dataset's folders right under it"
        )

    def fetch(file: RemoteFile, target: Path) -> None:
        with sentences(f"s3://{bucket}/{prefix}{file.path}", connected=True):
            _fetch(client, bucket, objects[file.path], target)

    return store.dataset([RemoteFile(path, entry["ETag"].strip('"')) for path, entry in objects.items()], fetch)


def s3_client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client("s3", config=Config(max_pool_connections=THREADS, connect_timeout=15))


def _list(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from (
            entry for entry in page.get("Contents", []) if not entry["Key"].endswith("/")
        )  # a/ marks a folder in consoles


def _fetch(client: Any, bucket: str, entry: dict[str, Any], target: Path) -> None:
    """Write one object to ``target``, the very bytes that were listed."""
    place = f"s3://{bucket}/{entry['Key']}"
    response = client.get_object(Bucket=bucket, Key=entry["Key"], IfMatch=entry["ETag"])
    with target.open("wb") as file:
        for chunk in response["Body"].iter_chunks(CHUNK):
            file.write(chunk)
    if (size := target.stat().st_size) != entry["Size"]:
        raise TransientError(f"{place} arrived with {size} bytes, expected {entry['Size']}")
    checked = any(
        "-" not in response.get(name, "-") for name in WHOLE_FILE_CHECKSUMS
    )  # with a dash it is one of the parts' checksums
    if not checked and _etag_is_md5(response) and not _matches_etag(client, bucket, entry, target):
        raise TransientError(f"{place} arrived with other bytes than its ETag {entry['ETag']} says")


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
            md5 = hashlib.md5()
            while size and (chunk := file.read(min(size, CHUNK))):
                md5.update(chunk)
                size -= len(chunk)
            md5s.append(md5.digest())
    return f"{hashlib.md5(b''.join(md5s)).hexdigest()}-{len(sizes)}"


@contextmanager
def sentences(place: str, *, connected: bool) -> Iterator[None]:
    """Turn boto's errors into those a user can act on. Not ``connected``: the server has not answered yet."""
    from botocore import exceptions

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        yield
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.CredentialRetrievalError,
    ) as error:
        raise InputError(
            f"{place} cannot be read, {as_clause(error)}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " AWS_PROFILE"
        ) from None
    except exceptions.ClientError as error:
        raise _of_answer(place, error, endpoint) from None
    except exceptions.EndpointConnectionError as error:
        if endpoint and not connected:
            raise InputError(
                f"{place} cannot be read, no server answers at AWS_ENDPOINT_URL {endpoint}: check the address"
            ) from None
        raise TransientError(f"{place} cannot be read, {as_clause(error)}") from None
    except (exceptions.HTTPClientError, exceptions.IncompleteReadError, exceptions.FlexibleChecksumError) as error:
        raise TransientError(f"{place} cannot be read, {as_clause(error)}") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        where = f"AWS_ENDPOINT_URL {endpoint}, the bucket's name" if endpoint else "the bucket's name"
        raise InputError(f"{place} cannot be read, {as_clause(error)}: check {where} and the AWS settings") from None


def _of_answer(place: str, error: Any, endpoint: str | None) -> Exception:
    """The error that the server answered, in our words."""
    code, status = error.response["Error"].get("Code", ""), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    message = f"{code}: {error.response['Error'].get('Message', '')}".rstrip(" .:")
    if status >= 500 or status == 429 or code in PASSING:
        return TransientError(f"{place} cannot be read, the server says {message}")
    if code == "NoSuchBucket":
        return InputError(
            f"{place} cannot be read, there is no such bucket at {endpoint or 'AWS'}: check its name and"
            " AWS_ENDPOINT_URL"
        )
    if status in (401, 403) or code.endswith("Token"):
        return InputError(
            f"{place} cannot be read, access is denied ({message}): check the credentials in AWS_* and the bucket's"
            " permissions"
        )
    return InputError(
        f"{place} cannot be read, the server says {message}: check bucket, prefix, AWS_DEFAULT_REGION and"
        " AWS_ENDPOINT_URL"
    )

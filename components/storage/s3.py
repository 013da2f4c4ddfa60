"""S3 and stores that speak its protocol, through boto3: client, addresses, listings, errors.

Credentials, region and endpoint come from the environment or the user's AWS configuration, as for every AWS tool
(``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, ``AWS_DEFAULT_REGION``, ``AWS_ENDPOINT_URL``,
``AWS_MAX_ATTEMPTS``, ...). On a cluster they are set from ``SEGMODELS_S3_*``, see environment.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from components.running.wording import as_clause
from segmodels.errors import InputError, TransientError

SCHEME = "s3://"

THREADS = 16
"""Files transferred at once."""

PASSING = (
    "SlowDown",
    "Throttling",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "PreconditionFailed",
    "NoSuchKey",
)
"""Error codes of transient errors; the last two are answered for objects that changed after they were listed."""


def s3_client(**settings: Any) -> Any:
    """A client; ``settings`` are those of botocore's Config that differ from ours."""
    import boto3
    from botocore.config import Config
    from botocore.session import Session

    config = Config(**{"max_pool_connections": THREADS, "connect_timeout": 15, **settings})
    session = Session()  # a new one reads the environment anew
    session.register_component("data_loader", _descriptions())
    return boto3.session.Session(botocore_session=session).client("s3", config=config)


@cache
def _descriptions() -> Any:
    """botocore's description of S3, whose parsing takes most of the time of making a client."""
    from botocore.loaders import create_loader

    return create_loader()


def split_url(url: str) -> tuple[str, str]:
    """``s3://bucket/some/folder`` -> ``bucket``, ``some/folder/``, the prefix of the keys of its files. The
    prefix of a whole bucket is empty.

    Raises:
        InputError: the address holds a user, which S3 has not; it is not shown, as a password may stand in it.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if "@" in bucket:
        raise InputError(
            f"an address starts with {SCHEME} and a user before @, expected {SCHEME}BUCKET/FOLDER: give the keys in"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def list_folder(client: Any, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name relative to ``url``, and the listing's entry (``Key``, ``Size``, ``ETag``), of each file below it."""
    bucket, prefix = split_url(url)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            if not entry["Key"].endswith("/"):  # a/ marks a folder in consoles
                yield entry["Key"].removeprefix(prefix), entry


@contextmanager
def translate_errors(place: str, *, connected: bool, access: str = "read") -> Iterator[None]:
    """Translate boto's errors. Before the first answer (``connected=False``) a failed connection means a wrong
    endpoint; later it is transient.

    Args:
        place: what is accessed, for the message.
        access: "read" or "stored".
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions

    failed = f"{place} cannot be {access}"
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
            f"{failed}, {as_clause(error)}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from None
    except exceptions.ClientError as error:
        raise _translated(failed, error, endpoint) from None
    except Boto3Error as error:  # of the transfer manager, around what the server said or how the connection ended
        if isinstance(error.__context__, exceptions.ClientError):
            raise _translated(failed, error.__context__, endpoint) from None
        raise TransientError(f"{failed}, {as_clause(error)}") from None
    except exceptions.EndpointConnectionError as error:
        if endpoint and not connected:
            raise InputError(f"{failed}, no server answers at AWS_ENDPOINT_URL {endpoint}: check the address") from None
        raise TransientError(f"{failed}, {as_clause(error)}") from None
    except (exceptions.HTTPClientError, exceptions.IncompleteReadError, exceptions.FlexibleChecksumError) as error:
        raise TransientError(f"{failed}, {as_clause(error)}") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        where = f"AWS_ENDPOINT_URL {endpoint}, the bucket's name" if endpoint else "the bucket's name"
        raise InputError(f"{failed}, {as_clause(error)}: check {where} and the AWS settings") from None


def _translated(failed: str, error: Any, endpoint: str | None) -> Exception:
    """The InputError or TransientError for an error that the server answered."""
    code, status = error.response["Error"].get("Code", ""), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    message = f"{code}: {error.response['Error'].get('Message', '')}".rstrip(" .:")
    if status >= 500 or status == 429 or code in PASSING:
        return TransientError(f"{failed}, the server says {message}")
    if code == "NoSuchBucket":
        return InputError(
            f"{failed}, there is no such bucket at {endpoint or 'AWS'}: check its name and AWS_ENDPOINT_URL"
        )
    if status in (401, 403) or code.endswith("Token"):
        return InputError(
            f"{failed}, access is denied ({message}): check the credentials in AWS_* and the bucket's permissions"
        )
    return InputError(
        f"{failed}, the server says {message}: check bucket, prefix, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
    )

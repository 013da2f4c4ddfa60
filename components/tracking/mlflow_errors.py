"""Refusals of MLflow, its database and its object store, as sentences: InputError or TransientError."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from segmodels.addresses import without_credentials
from segmodels.errors import InputError, TransientError

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
"""Variables with the address of the runs, and that of the registered models where it is another."""

OUTSIDE = frozenset(
    ("mlflow", "sqlalchemy", "alembic", "sqlite3", "psycopg2", "requests", "urllib3", "botocore", "boto3", "s3transfer")
)
"""Packages whose errors are those of the server, its database or its object store."""

MISSING = ("not found", "No such artifact", "404 Client Error", "(404)", "NoSuchKey", "NoSuchBucket")

DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")

NO_CREDENTIALS = ("Databricks credential configuration failed", "hostname and credentials configured by")
"""Words of MLflow about Databricks where this machine is not configured for it."""

NOT_MLFLOW = (
    "not in a valid JSON format",
    "failed with error code 405",
    "failed with error code 501",
    "BadStatusLine",
    "WRONG_VERSION_NUMBER",
)
"""Words about a server that is none of MLflow: it has no such page, or speaks another protocol than http or https."""

FILE_REFUSED = re.compile(r"\b(4[0-9]{2}) Client Error")
"""How requests says that a server refuses a file: files travel without MLflow's error codes."""

PASSING = ("408", "425", "429")
"""Such answers that ask to come again."""

STORE_DENIES = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "An error occurred (403)",
    "Unable to locate credentials",
    "Partial credentials found",
    "The config profile",
    "SSO session",
    "SSO Token",
)
"""Words of boto about an object store to which files go without MLflow's server."""

SETTING = re.compile(r"Failed to convert .* for MLFLOW_|^MLFLOW_[A-Z_]+ value must be one of")
"""How MLflow says that an environment variable of its own has no value that it can read."""

DAMAGED = (
    "database disk image is malformed",
    "file is not a database",
    "already exists",
    "no such table",
    "no such column",
)
"""Words of SQLite and SQLAlchemy about a file that is damaged, or whose tables were not all made."""


@contextmanager
def answers(what: str, uri: str) -> Iterator[None]:
    """Translate the errors of MLflow and of all below it in the block.

    Args:
        what: the object that the block asks for, to start the sentence: ``run 12ab``; empty for MLflow as a whole.
        uri: of the tracking server or store, or of the registry.

    Raises:
        InputError: it does not exist, is refused, or the store is damaged, full or of another MLflow version.
        TransientError: the server or the object store does not answer, or the database is locked.
    """
    try:
        yield
    except (InputError, TransientError):
        raise
    except Exception as error:
        if (translated := _translated(error, what, without_credentials(uri), variable_of(uri))) is None:
            raise
        raise translated from error


def reason(error: BaseException) -> str:
    """The first line of an error, short and the same each time: without addresses in memory or credentials."""
    text = without_credentials(_without_preamble(str(error)) or type(error).__name__)
    if "timed out" in text or "timeout exception" in text:
        return "no answer in time"
    if refused := re.search(r"\[Errno -?\d+\] ([^'\")>]+)", text):
        return refused[1].strip()
    return re.sub(r"<[^<>]* object at 0x[0-9a-f]+>:? ?", "", text.splitlines()[0])[:300]


def _without_preamble(text: str) -> str:
    """Without the line that SQLAlchemy puts before an error of a statement that a query made it send."""
    return re.sub(r"^\s*\(raised as a result of [^\n]*\n", "", text).strip()


def variable_of(uri: str) -> str:
    """The environment variable that holds an address."""
    return REGISTRY if uri == os.environ.get(REGISTRY) != os.environ.get(TRACKING) else TRACKING


def _translated(error: Exception, what: str, place: str, variable: str) -> Exception | None:
    """None: an error of another kind, a bug or a refusal of this machine's operating system."""
    outside = any(kind.__module__.split(".")[0] in OUTSIDE for kind in type(error).__mro__)
    network = isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, ModuleNotFoundError):
        return InputError(f"MLflow at {place} needs the package {error.name}: install it")
    text, code, kind = str(error), getattr(error, "error_code", None), type(error).__name__
    if wrong := _of_settings(error, text, place):
        return wrong
    if not outside and not network and not isinstance(error, FileNotFoundError):
        return None
    prefix, what = f"{what}: " if what else "", what or "the request"
    if database := _of_database("".join(_without_preamble(text).splitlines()[:1]), place):
        return database
    unknown = kind.startswith("Unsupported") or text.startswith("Model Registry features are not supported")
    if unknown or kind in ("InvalidUrlException", "ArgumentError"):
        return InputError(f"{variable} is {place!r}, expected http(s)://HOST:PORT or sqlite:///FILE: correct it")
    if is_missing(error):
        return InputError(f"{what} is not in MLflow at {place} ({reason(error)}): check its name, alias and {variable}")
    if any(words in text for words in STORE_DENIES):
        return InputError(
            f"{prefix}the object store with the files of MLflow at {place} denies access ({reason(error)}): check"
            " AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE, and this machine's clock"
        )
    file_refused = FILE_REFUSED.search(text)
    status = file_refused[1] if file_refused else ""
    if code in DENIED or status in ("401", "403"):
        return InputError(
            f"{prefix}MLflow at {place} denies access ({reason(error)}): check MLFLOW_TRACKING_USERNAME,"
            " MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN, and the server's --allowed-hosts"
        )
    if any(words in text for words in NO_CREDENTIALS):  # the text may hold a secret of the address
        return InputError(
            f"{variable} is {place!r}, but this machine has no credentials of Databricks for it: set"
            " DATABRICKS_HOST and DATABRICKS_TOKEN or `databricks configure` a profile, or correct the address"
        )
    if code == "ENDPOINT_NOT_FOUND" or any(words in text for words in NOT_MLFLOW):
        return InputError(f"{place} is not an MLflow server ({reason(error)}): correct {variable}")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return InputError(
            f"the certificate of {place} is not trusted: check the machine's clock, and give the authority's file in"
            " MLFLOW_TRACKING_SERVER_CERT_PATH"
        )
    if "must be in the 'active' state" in text:
        return InputError(
            f"{prefix}deleted in MLflow at {place} ({reason(error)}): restore it, `mlflow runs restore --run-id ID` or"
            " `mlflow experiments restore --experiment-id ID`, or run the train step again"
        )
    if status == "413":
        return InputError(
            f"{prefix}a file is too large for MLflow at {place} ({reason(error)}): raise the limit of the server, or of"
            " the proxy before it (nginx: client_max_body_size)"
        )
    if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "FEATURE_DISABLED") or status not in ("", *PASSING):
        return InputError(f"{what} is refused by MLflow ({reason(error)}): correct it")
    return TransientError(f"{prefix}MLflow at {place} does not answer ({reason(error)})")


def _of_settings(error: Exception, text: str, place: str) -> Exception | None:
    """For an environment variable that cannot be used; None for any other error."""
    if isinstance(error, ValueError) and SETTING.search(text):
        return InputError(f"an environment variable of MLflow cannot be read ({reason(error)}): correct or unset it")
    if "Invalid header value" in text or "'latin-1' codec can't encode" in text:  # the text may hold the secret
        return InputError(
            "MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_PASSWORD holds a line break, or a"
            " character that is not in Latin-1: correct it"
        )
    if "TLS" in text and "invalid path" in text:
        return InputError(
            f"a file of certificates for {place} is not there ({reason(error)}): correct REQUESTS_CA_BUNDLE,"
            " MLFLOW_TRACKING_SERVER_CERT_PATH or MLFLOW_TRACKING_CLIENT_CERT_PATH"
        )
    if "proxy" in repr(error.__cause__).lower() and type(error).__name__ == "InvalidUrlException":
        return InputError(f"the proxy for {place} has no address that can be read: correct HTTP_PROXY or HTTPS_PROXY")
    if "ProxyError(" in text:
        return TransientError(
            f"the proxy of HTTP_PROXY or HTTPS_PROXY does not lead to MLflow at {place} ({reason(error)}): correct it,"
            " or name the server in NO_PROXY"
        )
    return None


def is_missing(error: Exception) -> bool:
    """Whether MLflow says that something does not exist; it has several ways to say so."""
    if getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or isinstance(
        error, FileNotFoundError
    ):
        return True
    return any(words in str(error) for words in MISSING) and "retries exceeded" not in str(error)


def _of_database(text: str, place: str) -> Exception | None:
    """For an error of the database itself; None for any other."""
    why = without_credentials(text)
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return other_version(place, why)
    if "database is locked" in text or "database table is locked" in text:
        return TransientError(f"MLflow's database {place} is locked by another process")
    if "disk is full" in text or "No space left" in text:
        return InputError(f"the disk is full ({place}): free some space and run the step again")
    if "disk I/O error" in text:
        return InputError(
            f"MLflow's database {place} cannot be read or written ({why}): check the disk and the limit of file sizes"
            " (ulimit -f)"
        )
    if "readonly database" in text or "unable to open database file" in text:
        return InputError(
            f"MLflow's database {place} cannot be opened or written ({why}): check that it is a file, and its"
            " permissions"
        )
    if any(words in text for words in DAMAGED) and ("sqlite3." in text or text.startswith(DAMAGED)):
        return damaged(place, why)
    return None


def damaged(place: str, reason: str) -> InputError:
    return InputError(
        f"MLflow's database {place} is damaged ({reason}): if it is MLflow's file, put a backup in its place, or move"
        " it away and train again; if not, correct MLFLOW_TRACKING_URI"
    )


def other_version(place: str, found: str) -> InputError:
    """The database's tables are those of another MLflow version."""
    import mlflow

    return InputError(
        f"MLflow's database {place} was made by another version than MLflow {mlflow.__version__} ({found}): back it up"
        f" and run `mlflow db upgrade {place}` if it is older, or install the newer MLflow that made it"
    )

"""The connection to MLflow: its address, and a client of it that has been answered once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.running.project import project_root
from components.tracking.local_store import STORE, prepare_store
from components.tracking.mlflow_errors import REGISTRY, TRACKING, answers
from segmodels.addresses import check_address, without_credentials
from segmodels.errors import InputError

PROBE_SECONDS = 5
"""How long the first request waits for an answer."""

SQLITE = "sqlite:///"

DATABASES = ("postgresql", "mysql", "mssql")
"""Servers of databases; their addresses are those of SQLAlchemy."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the server's address, with its password, at each run's end
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Of MLflow's client, where the environment does not set them otherwise."""


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in the project's root: runs of `dvc exp run --queue` and of
    configurations in folders of their own go to one store.
    """
    return os.environ.get(TRACKING) or f"{SQLITE}{project_root() / STORE}"


def registry_uri(client: Any) -> str:
    """The address of the registered models: ``MLFLOW_REGISTRY_URI``, else that of the runs."""
    return os.environ.get(REGISTRY) or client.tracking_uri


def mlflow_client(uri: str | None = None) -> Any:
    """A client of the tracking server or store, which has answered one request. A local store is made if it is not
    there.

    Raises:
        InputError: the address is none of MLflow, access is denied, or the store is damaged or of another version.
        TransientError: the server does not answer within 5 seconds, or the store is locked.
    """
    uri = prepared_uri(uri)
    with answers("", uri):
        import mlflow

        for handler in logging.getLogger("mlflow").handlers:
            handler.addFilter(_without_credentials)
        client = mlflow.MlflowClient(uri)
        _probe(client)
        _use_without_client(uri)
    return client


def prepared_uri(uri: str | None = None) -> str:
    """The address of the tracking server or store, ``tracking_uri`` where none is given. A local store is made if it is
    not there, else checked, which takes no import of MLflow.

    Raises:
        InputError: the address is none of MLflow or cannot be read, or the store is damaged or of another version.
        TransientError: the store is locked.
    """
    uri = uri or tracking_uri()
    scheme, colon, _ = uri.partition(":")
    if ("://" not in uri and not scheme.startswith("databricks")) or scheme == "file":  # its rest may be a secret
        raise InputError(
            f"{TRACKING} {f'begins with {scheme + colon!r}' if colon else f'is {uri!r}, a folder'}, which MLflow no"
            " longer takes: use sqlite:///mlflow.db or a server's http(s) address"
        )
    if uri in ("sqlite:", "sqlite://", SQLITE, f"{SQLITE}:memory:"):
        raise InputError(f"{TRACKING} is {uri!r}, which names no file: use sqlite:///mlflow.db")
    if scheme != "sqlite":
        check_address(uri, TRACKING)
    if scheme.partition("+")[0] in DATABASES:
        _check_database(uri)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # of its database MLflow logs every table and, at an error, a traceback; the sentence says what is wrong
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if uri.startswith(SQLITE):
        with answers("", uri):
            prepare_store(Path(uri.removeprefix(SQLITE)).absolute())
    return uri


def _check_database(uri: str) -> None:
    """Raise InputError where SQLAlchemy cannot read the address of a database."""
    from sqlalchemy.engine import make_url

    try:
        make_url(uri)
    except ValueError as error:  # of its port
        raise InputError(
            f"{TRACKING} is {without_credentials(uri)!r}, an address that cannot be read ({error}): correct it"
        ) from None


def _use_without_client(uri: str) -> None:
    """Let MLflow's functions that take no client, as its way to save and load models does, go to this address.

    MLflow puts it into the environment as well, where later commands of this process and its children would take it
    for the user's choice.
    """
    import mlflow

    before = os.environ.get(TRACKING)
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(TRACKING, None)
    else:
        os.environ[TRACKING] = before


def _probe(client: Any) -> None:
    """Ask for something small, without the patience that later requests have."""
    if client.tracking_uri.startswith("http"):
        post(client, "experiments/search", {"max_results": 1}, PROBE_SECONDS)
    else:
        client.search_experiments(max_results=1)


def post(client: Any, endpoint: str, body: Mapping[str, Any], seconds: float) -> None:
    """One request to a server's REST interface, without a retry, where MLflow's client would repeat it for minutes.

    Args:
        endpoint: for example ``runs/log-batch``.
        seconds: to wait for the connection, and then for the answer.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    path = f"/api/2.0/mlflow/{endpoint}"
    credentials = get_default_host_creds(client.tracking_uri)
    response = http_request(credentials, path, "POST", json=body, max_retries=0, timeout=seconds, raise_on_status=False)
    verify_rest_response(response, path)


def _without_credentials(record: logging.LogRecord) -> bool:
    """MLflow's own lines name the server's address."""
    record.msg, record.args, record.exc_info = without_credentials(record.getMessage()), (), None
    return True


def recorded_uri(uri: str) -> str:
    """An address as run.json keeps it: without credentials, that of an SQLite file in the project relative to its root,
    so that the project can be moved.
    """
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE)).absolute()
        return f"{SQLITE}{path.relative_to(project_root()) if path.is_relative_to(project_root()) else path}"
    return without_credentials(uri)


def resolved_uri(recorded: str) -> str:
    """The address to use for one that run.json keeps. A recorded SQLite file outside the project belongs to another
    copy of it: this one's store takes its place.
    """
    if not recorded.startswith(SQLITE):
        return recorded
    path = project_root() / recorded.removeprefix(SQLITE)
    return f"{SQLITE}{path}" if path.is_relative_to(project_root()) else tracking_uri()

"""The Kubeflow Pipelines server: connecting, its errors, submitting runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmodels.errors import InputError, TransientError

EXPERIMENT = "segmentation"


@dataclass(frozen=True)
class Server:
    """A connection to a Kubeflow Pipelines server.

    Attributes:
        client: kfp's client.
        host: the server's address.
        namespace: of the user; empty on a single-user server.
        version: major and minor of its release; None for a server that does not say it.
    """

    client: Any
    host: str
    namespace: str
    version: tuple[int, int] | None = None


def connect(host: str | None = None, namespace: str | None = None, token_file: Path | None = None) -> Server:
    """Connect, and check that a Kubeflow Pipelines server answers.

    Args:
        host: address; None takes ``KF_PIPELINES_ENDPOINT``.
        namespace: None takes ``KF_PIPELINES_NAMESPACE``.
        token_file: file with a bearer token; None takes the variable ``KF_PIPELINES_TOKEN``, the file that Kubernetes
            mounts for pods (``KF_PIPELINES_SA_TOKEN_PATH``), or the cookie of a login in ``KF_PIPELINES_COOKIE``.

    Raises:
        InputError: no address is given, no Kubeflow answers there, or the credentials or the namespace are wrong.
        TransientError: the server does not answer.
    """
    host = host or os.environ.get("KF_PIPELINES_ENDPOINT")
    if not host:
        raise InputError(
            "the address of Kubeflow Pipelines is not known: give --host or set KF_PIPELINES_ENDPOINT, for example to"
            " http://localhost:8080"
        )
    host = (host if "://" in host else f"https://{host}").rstrip("/")
    namespace = namespace or os.environ.get("KF_PIPELINES_NAMESPACE") or ""
    token, cookie = _token(token_file), os.environ.get("KF_PIPELINES_COOKIE")
    health = _health(host, token, cookie)
    if health.get("multi_user") and not namespace:
        raise InputError(f"Kubeflow at {host} is multi-user: give --namespace or set KF_PIPELINES_NAMESPACE")
    if namespace and not health.get("multi_user"):
        raise InputError(
            f"Kubeflow at {host} is single-user, got namespace {namespace!r}: remove --namespace or unset"
            " KF_PIPELINES_NAMESPACE"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = _client_class()(
            host=host,
            namespace=namespace or "kubeflow",
            existing_token=token,
            cookies=cookie,
            ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
        )
    server = Server(client, host, namespace, _release(str(health.get("tag_name", ""))))
    with translate_errors(server):
        client.list_experiments(page_size=1, namespace=namespace)
    return server


def _client_class() -> Any:
    """kfp's client without ~/.config/kfp/context.json, which holds the namespace, the cookie and a header of a login,
    perhaps at another server: kfp would send them to this one.
    """
    from kfp.client import Client

    class OwnSettings(Client):
        def _load_context_setting_or_default(self) -> None:
            self._context_setting = {"namespace": ""}

        def set_user_namespace(self, namespace: str) -> None:
            """Does not save it for other programs, as kfp does in a pod that was given no namespace."""
            self._context_setting["namespace"] = namespace

    return OwnSettings


def _token(file: Path | None) -> str | None:
    if file is None and (token := os.environ.get("KF_PIPELINES_TOKEN")):
        return token.strip()
    if file is None and (mounted := os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")):
        file = Path(mounted)
    try:
        return file.read_text(encoding="utf-8").strip() if file else None
    except OSError as error:
        raise InputError(
            f"token file {file} cannot be read ({error.strerror}): check --token-file and KF_PIPELINES_SA_TOKEN_PATH"
        ) from None


def _health(host: str, token: str | None, cookie: str | None) -> dict[str, Any]:
    """The server's answer to ``healthz``: ``multi_user``, and ``tag_name``, its release.

    Without kfp's client, which takes a login page for an empty answer.
    """
    import requests

    headers = ({"Authorization": f"Bearer {token}"} if token else {}) | ({"Cookie": cookie} if cookie else {})
    try:
        response = requests.get(
            f"{host}/apis/v2beta1/healthz",
            headers=headers,
            timeout=20,
            allow_redirects=False,
            verify=os.environ.get("SSL_CERT_FILE") or True,
        )
    except requests.exceptions.SSLError as error:
        raise InputError(
            f"Kubeflow at {host} has a certificate that is not trusted ({shortened(error)}): set SSL_CERT_FILE to the"
            " certificate of your authority"
        ) from None
    except requests.exceptions.ConnectionError as error:
        if "resolve" in str(error) or "Name or service" in str(error):
            raise InputError(f"there is no host {host}: check --host or KF_PIPELINES_ENDPOINT") from None
        raise TransientError(f"Kubeflow at {host} does not answer ({shortened(error)})") from None
    except requests.exceptions.Timeout:
        raise TransientError(f"Kubeflow at {host} does not answer within 20 s") from None
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{host} is not the address of a server ({shortened(error)}): check --host or KF_PIPELINES_ENDPOINT"
        ) from None
    login = "set KF_PIPELINES_TOKEN or --token-file, or KF_PIPELINES_COOKIE to the cookie of your login"
    if response.is_redirect or response.status_code in (401, 403):
        raise InputError(f"Kubeflow at {host} asks to log in (HTTP {response.status_code}): {login}")
    if response.status_code >= 500:
        raise TransientError(f"Kubeflow at {host} answers HTTP {response.status_code}")
    try:
        health = response.json()
    except ValueError:
        health = None
    if not response.ok or not isinstance(health, dict):
        kind = response.headers.get("Content-Type", "no content type").split(";")[0]
        raise InputError(
            f"{host} answers with {kind}, HTTP {response.status_code}, which is not Kubeflow's API: check the address,"
            f" or {login}"
        )
    return health


def _release(tag: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)\.", tag)
    return (int(match[1]), int(match[2])) if match else None


# --- errors


class UnknownIdError(InputError):
    """The server does not know the id that it was asked for."""


class ConflictError(InputError):
    """The name that was to be created exists."""


USER_ERRORS = re.compile(
    r"Invalid ?[iI]nput ?[eE]rror|ResourceNotFoundError|Already exist|BadRequestError|FailedPreconditionError"
    r"|(pipeline|platform) spec is invalid"
)
"""Words of backend/src/common/util/error.go and apiserver/template/template.go for errors that the request causes. KFP
2.17 wraps several of them in an InternalServerError, HTTP 500: an invalid pipeline at CreateRun, for example.
"""


@contextmanager
def translate_errors(server: Server) -> Iterator[None]:
    """Translate the server's errors, and leave out what the kfp client prints.

    Raises:
        UnknownIdError: the server does not know an id (HTTP 404).
        ConflictError: the name exists (HTTP 409).
        InputError: the server rejects the request.
        TransientError: the server fails or does not answer.
    """
    import kfp_server_api
    import urllib3

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        raise _translated(server, error) from None
    except urllib3.exceptions.HTTPError as error:
        raise TransientError(f"Kubeflow at {server.host} stopped answering ({shortened(error)})") from None


def _translated(server: Server, error: Any) -> Exception:
    message = shortened(_message(error.body) or error.reason or "no reason given")
    if error.status in (401, 403) or "not authorized" in message:
        where = f" in namespace {server.namespace!r}" if server.namespace else ""
        return InputError(
            f"Kubeflow at {server.host} does not allow that{where} ({message}): check --namespace and your credentials"
        )
    if error.status == 404:
        return UnknownIdError(f"Kubeflow at {server.host} does not know that ({message}): check the name or id")
    if error.status == 429 or ((error.status or 0) >= 500 and not USER_ERRORS.search(message)):
        return TransientError(f"Kubeflow at {server.host} fails (HTTP {error.status}: {message})")
    kind = ConflictError if error.status == 409 else InputError
    return kind(f"Kubeflow at {server.host} rejects the request (HTTP {error.status}: {message})")


def _message(body: str | None) -> str:
    """The server's words: ``message`` of its gRPC services, ``error_message`` of the endpoints for uploads, or text."""
    try:
        words = json.loads(body or "")
    except ValueError:
        return body or ""
    text = str(words.get("message") or words.get("error_message") or "") if isinstance(words, dict) else str(words)
    return text.partition("\n")[0] if "\n\t" in text else text  # a stack follows the cause


def shortened(text: Any) -> str:
    """``text`` in one line of at most 300 characters; of a longer one its end, which holds the cause."""
    line = " ".join(str(text).split()).rstrip(".")
    return line if len(line) <= 300 else f"…{line[-299:]}"


# --- runs


def experiment_id(server: Server) -> str:
    """The experiment that holds our runs; created if it does not exist.

    Raises:
        InputError: the experiment is archived, which hides its runs.
    """
    try:
        with translate_errors(server):
            experiment = server.client.create_experiment(EXPERIMENT, namespace=server.namespace)
    except ConflictError:  # another process has just created it
        with translate_errors(server):
            experiment = server.client.get_experiment(experiment_name=EXPERIMENT, namespace=server.namespace)
    if str(experiment.storage_state) == "ARCHIVED":
        raise InputError(
            f"experiment {EXPERIMENT!r} at {server.host} is archived, which hides its runs: restore it at"
            f" {server.host}/#/archive/experiments"
        )
    return str(experiment.experiment_id)


def find_experiment(server: Server) -> str | None:
    """The experiment that holds our runs; None if it does not exist."""
    named = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": EXPERIMENT}]})
    with translate_errors(server):
        found = server.client.list_experiments(filter=named, namespace=server.namespace).experiments
    return found[0].experiment_id if found else None


def submit(server: Server, package: Path, name: str, values: Mapping[str, Any], service_account: str | None) -> str:
    """Start a run of the compiled pipeline and return its id."""
    experiment = experiment_id(server)
    with translate_errors(server):
        run = server.client.run_pipeline(
            experiment, name, pipeline_package_path=str(package), params=dict(values), service_account=service_account
        )
    return run.run_id


def run_link(server: Server, run_id: str) -> str:
    """Address of a run in the UI of Kubeflow Pipelines."""
    return f"{server.host}/#/runs/details/{run_id}"

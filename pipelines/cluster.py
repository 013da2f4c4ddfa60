"""The Kubeflow Pipelines server: connecting, submitting runs."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.server_errors import ConflictError, shortened, translate_errors
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

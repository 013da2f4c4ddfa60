"""The Kubeflow Pipelines server: connecting, submitting runs, asking how they are."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.steps import CLUSTER_STEPS, STEPS
from segmodels.errors import InputError, TransientError

EXPERIMENT = "segmentation"

TASKS = {step.name for step in (*STEPS, *CLUSTER_STEPS)}
"""Kubeflow lists all nodes of the workflow beside them: drivers, executors, groups, the workflow itself."""


@dataclass(frozen=True)
class Server:
    """A Kubeflow Pipelines server that answers.

    Attributes:
        host: its address.
        namespace: of the user; empty where the server does not tell users apart.
    """

    client: Any
    host: str
    namespace: str


def connect(host: str | None = None, namespace: str | None = None, token_file: Path | None = None) -> Server:
    """Connect, and find out whether what answers is Kubeflow.

    Args:
        host: address; None takes ``KF_PIPELINES_ENDPOINT``.
        namespace: None takes ``KF_PIPELINES_NAMESPACE``.
        token_file: file with a bearer token; None takes the variable ``KF_PIPELINES_TOKEN``, the file that Kubernetes
            mounts for pods (``KF_PIPELINES_SA_TOKEN_PATH``), or the cookie of a login in ``KF_PIPELINES_COOKIE``.

    Raises:
        InputError: no address, no Kubeflow there, wrong credentials or namespace.
        TransientError: no answer.
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
    many_users = _health(host, token, cookie).get("multi_user", False)
    if many_users and not namespace:
        raise InputError(
            f"Kubeflow at {host} keeps users apart by namespace: give --namespace or set KF_PIPELINES_NAMESPACE"
        )
    if namespace and not many_users:
        raise InputError(
            f"Kubeflow at {host} has no namespaces of users: leave --namespace {namespace} and"
            " KF_PIPELINES_NAMESPACE out"
        )
    from kfp.client import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = Client(
            host=host,
            namespace=namespace or "kubeflow",
            existing_token=token,
            cookies=cookie,
            ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
        )
    server = Server(client, host, namespace)
    with translate_errors(server):
        client.list_experiments(page_size=1, namespace=namespace)
    return server


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
    """What the server says of itself. The kfp client takes a login page for an empty answer, so this asks
    without it.
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
            f"Kubeflow at {host} shows a certificate that is not trusted ({_short(error)}): set SSL_CERT_FILE to your"
            " authority's certificate"
        ) from None
    except requests.exceptions.ConnectionError as error:
        if "resolve" in str(error) or "Name or service" in str(error):
            raise InputError(f"there is no host {host}: check --host or KF_PIPELINES_ENDPOINT") from None
        raise TransientError(f"Kubeflow at {host} does not answer ({_short(error)})") from None
    except requests.exceptions.Timeout:
        raise TransientError(f"Kubeflow at {host} does not answer within 20 s") from None
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{host} is no address of a server ({_short(error)}): check --host or KF_PIPELINES_ENDPOINT"
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


@contextmanager
def translate_errors(server: Server) -> Iterator[None]:
    """Translate the server's errors. What the kfp client prints is left out."""
    import kfp_server_api
    import urllib3

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        raise _translated(server, error) from None
    except urllib3.exceptions.HTTPError as error:
        raise TransientError(f"Kubeflow at {server.host} stops answering ({_short(error)})") from None


def _translated(server: Server, error: Any) -> Exception:
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason or error.body or "no reason given"
    message = _short(message)
    if error.status in (401, 403):
        where = f" in namespace {server.namespace!r}" if server.namespace else ""
        return InputError(
            f"Kubeflow at {server.host} does not allow that{where} ({message}): check --namespace and your credentials"
        )
    if error.status == 404:
        return InputError(f"Kubeflow at {server.host} does not know that ({message}): check the name or id")
    if error.status == 429 or (error.status or 0) >= 500:
        return TransientError(f"Kubeflow at {server.host} fails (HTTP {error.status}: {message})")
    return InputError(f"Kubeflow at {server.host} refuses (HTTP {error.status}: {message})")


def _short(text: Any) -> str:
    return " ".join(str(text).split())[:300].rstrip(".")


# --- runs


def experiment_id(server: Server) -> str:
    """The experiment that holds our runs, made when it is not there."""
    with translate_errors(server):
        return server.client.create_experiment(EXPERIMENT, namespace=server.namespace).experiment_id


def find_experiment(server: Server) -> str | None:
    """The experiment that holds our runs, if it is there."""
    named = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": EXPERIMENT}]})
    with translate_errors(server):
        found = server.client.list_experiments(filter=named, namespace=server.namespace).experiments
    return found[0].experiment_id if found else None


def submit(server: Server, package: Path, name: str, values: Mapping[str, Any], service_account: str | None) -> str:
    """Start a run of the compiled pipeline; its id."""
    experiment = experiment_id(server)
    with translate_errors(server):
        run = server.client.run_pipeline(
            experiment, name, pipeline_package_path=str(package), params=dict(values), service_account=service_account
        )
    return run.run_id


def run_link(server: Server, run_id: str) -> str:
    return f"{server.host}/#/runs/details/{run_id}"


def describe_run(server: Server, run_id: str) -> str:
    """State of a run and of each of its steps, in lines."""
    with translate_errors(server):
        run = server.client.get_run(run_id)
    lines = [f"{run.display_name}: {run.state}  {run_link(server, run_id)}"]
    if run.error and run.error.message:
        lines.append(f"  {_short(run.error.message)}")
    nodes = (run.run_details.task_details if run.run_details else None) or []
    by_id = {node.pod_name: node for node in nodes if node.pod_name}
    for step in sorted(
        (node for node in nodes if node.start_time and node.display_name in TASKS), key=lambda node: node.start_time
    ):
        reason = _reason(step, by_id) if str(step.state) == "FAILED" else ""
        lines.append(f"  {step.display_name:<12} {step.state}{f': {reason}' if reason else ''}")
    return "\n".join(lines)


def _reason(node: Any, by_id: Mapping[str, Any]) -> str:
    """Why a node failed: the last word of the pods below it (``executor``, ``executor(0)`` of a first attempt, ...),
    else its own.
    """
    below = [by_id[child.pod_name] for child in node.child_tasks or [] if child.pod_name in by_id]
    words = [
        _reason(child, by_id)
        for child in below
        if child.display_name.startswith("executor") and str(child.state) == "FAILED"
    ]
    own = _short(node.error.message) if node.error and node.error.message else ""
    return next((word for word in reversed(words) if word), own)

"""Show MLflow's UI: start it on the local store, and print links to the pages that matter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from components.tracking.links import PORT, experiment_links, ui_address
from segmodels.errors import InputError

SECONDS = 120
"""How long the server may take to answer; on two busy cores it takes twenty."""


def ui(port: int = PORT) -> None:
    """Start MLflow's UI on the local store, print links when its pages answer, and serve them until Ctrl-C. With
    ``MLFLOW_TRACKING_URI`` of a server, only print the links.

    Args:
        port: of the UI on this machine; only this machine can reach it.

    Raises:
        InputError: the port is taken, or the server does not start.
        TransientError: the tracking server does not answer.
    """
    from components.tracking.client import mlflow_client, prepared_uri

    uri = prepared_uri()
    if uri.startswith("http"):
        _print_links(mlflow_client(uri), ui_address(uri))
        return
    _check_free(port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: no server is left behind
    with tempfile.TemporaryFile() as log:
        server = _start(uri, port, log)
        try:
            client = mlflow_client(uri)  # imports MLflow while the server does
            _wait(server, f"http://127.0.0.1:{port}/", log)
            _print_links(client, f"http://localhost:{port}")
            print("Ctrl-C stops it", flush=True)
            server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.terminate()
            server.wait()


def _check_free(port: int) -> None:
    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on port {port} ({reason}): stop what uses it, or choose another with --port"
        ) from None


def _start(store: str, port: int, log: Any) -> subprocess.Popen[bytes]:
    """One worker: each imports MLflow, and two cores start one in a third of the time of MLflow's four."""
    options = {"workers": 1, "host": "127.0.0.1", "port": port, "backend-store-uri": store}
    command = [sys.executable, "-m", "mlflow", "server", *(f"--{name}={value}" for name, value in options.items())]
    quiet: Mapping[str, str] = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # jobs for language models
    return subprocess.Popen(command, env={**os.environ, **quiet}, stdout=log, stderr=subprocess.STDOUT)


def _wait(server: subprocess.Popen[bytes], page: str, log: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(page, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    raise InputError(f"MLflow's UI does not start ({lines[-1] if lines else 'no answer'}): see `mlflow server --help`")


def _print_links(client: Any, address: str) -> None:
    from components.tracking.mlflow_errors import answers

    with answers("", client.tracking_uri):
        experiments = [one.experiment_id for one in client.search_experiments()]
        last = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
        links = experiment_links(client, address, last[0].info.experiment_id) if last else {"MLflow": address}
    for name, link in links.items():
        print(f"{name:<13} {link}")

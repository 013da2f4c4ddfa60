"""A real MLflow server for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from ports import free_port


class MlflowServer:
    """A real MLflow server that can be stopped and started again on the same port and store.

    Args:
        folder: where it runs and keeps its log.
        arguments: of ``mlflow server``, beside the port; without any it keeps runs in a file in ``folder``.
        environment: of the process.
    """

    def __init__(
        self, folder: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] = os.environ
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.arguments = arguments or ("--workers=1", f"--backend-store-uri=sqlite:///{folder / 'server.db'}")
        self.environment = {**environment, "MLFLOW_DISABLE_TELEMETRY": "true"}

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", *self.arguments, f"--port={self.port}"]
        path = self.folder / "server.log"
        with path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, env=self.environment
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"the MLflow server did not start: {path.read_text()[-3000:]}")

    def crash(self) -> bool:
        """Kill the process that answers, which Gunicorn's main process replaces (with ``--gunicorn-opts``). False while
        there is none.
        """
        with contextlib.suppress(psutil.NoSuchProcess):  # they come and go
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if child.ppid() != self.process.pid:
                    child.kill()
                    return True
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def mlflow_server(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[MlflowServer]:
    """A running server, which is stopped at the end."""
    server = MlflowServer(folder, arguments, environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()

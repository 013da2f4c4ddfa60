"""serve as a process of its own: a real registry, many clients, another champion, and SIGTERM. Nobody's request
fails.
"""

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pipeline import LABELS, use_local_store, write_model, write_run

from components.tracking.client import mlflow_client
from components.tracking.model_registry import Registry, Version
from segmodels.inference.bundle import bundle_digest, load_bundle
from segmodels.inference.predictor import Predictor
from segmodels.tasks.registry import create_task

REPOSITORY = Path(__file__).resolve().parents[3]
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


class Server:
    """``python -m components serve`` in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.lines: list[str] = []
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "components", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stdout.readline, "")))
        self._reader.start()
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)"))

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        deadline = time.monotonic() + seconds
        while True:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found.group(found.lastindex or 0)
            assert time.monotonic() < deadline, self.lines
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)

    def ask(self, path: str, body: bytes | Iterator[bytes] | None = None) -> tuple[int, bytes, str | None]:
        """Status, body and the version that answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                "GET" if body is None else "POST", path, body, encode_chunked=not isinstance(body, bytes | None)
            )
            response = connection.getresponse()
            return response.status, response.read(), response.getheader("X-Model-Version")
        finally:
            connection.close()

    def end(self, seconds: float = 30) -> int:
        """Exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self._reader.join()
        return code


@contextmanager
def server(folder: Path, *options: str) -> Iterator[Server]:
    started = Server(folder, *options)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()


@pytest.mark.slow
def test_no_request_fails_while_the_champion_changes_and_the_server_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store(tmp_path, monkeypatch)
    run = write_run(write_model(tmp_path / "model", steps=1), tmp_path / "state")
    registry = Registry(mlflow_client(), "scenes")
    masks: dict[str | None, np.ndarray] = {}
    for number, steps in {"1": 2, "2": 15}.items():
        model = write_model(tmp_path / number / "bundle", steps=steps)
        registry.add(
            run_id=run,
            model_digest=bundle_digest(model),
            contents=tmp_path / number,
            task=create_task("semantic", LABELS),
            example=IMAGE[None],
            tags={},
            description="",
        )
        masks[number] = Predictor(load_bundle(model)).masks([IMAGE])[0]
    assert (masks["1"] != masks["2"]).any()
    registry.make_champion(Version("1", {}), None)

    with server(tmp_path, "--model", "models:/scenes@champion", "--poll", "0.1", "--batch-window", "2") as running:
        assert running.ask("/v2/health/live")[0] == 200  # before the model is loaded
        running.wait_for("scenes version 1 is served")
        assert running.ask("/v2/health/ready")[0] == 200

        answers: list[tuple[int, bytes, str | None]] = []
        over = threading.Event()

        def client() -> None:
            while not over.is_set():
                answers.append(running.ask("/predict", png(IMAGE)))

        clients = [threading.Thread(target=client) for _ in range(6)]
        for thread in clients:
            thread.start()
        for number in ("2", "1", "2"):
            registry.make_champion(Version(number, {}), None)
            before = len(answers)
            deadline = time.monotonic() + 30
            while not any(version == number for *_, version in answers[before:]):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        over.set()
        for thread in clients:
            thread.join()
        assert {status for status, *_ in answers} == {200}
        assert {version for *_, version in answers} == {"1", "2"}
        for _, body, version in answers:
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body))), masks[version])
        assert running.end() == 0


@pytest.mark.slow
def test_what_is_being_answered_is_finished_after_sigterm_and_nothing_new_is_taken(tmp_path: Path) -> None:
    write_model(tmp_path / "scenes", steps=1)
    with server(
        tmp_path,
        *("--model", "scenes", "--batch-window", "3000", "--max-megabytes", "1", "--threads", "1"),
        *("--log", "log", "--log-share", "1"),
    ) as running:
        running.wait_for("scenes version [0-9a-f]{12} is served")

        status, body, _ = running.ask(
            "/predict", iter([bytes(100_000)] * 40)
        )  # in chunks, of which it reads no more than it must
        assert (status, b"expected at most 1: send fewer" in body) == (413, True)

        answers: list[tuple[int, bytes, str | None]] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(running.ask("/predict", png(IMAGE)))) for _ in range(3)
        ]
        for thread in waiting:
            thread.start()
        deadline = time.monotonic() + 3
        while b"segmodels_requests_waiting 3" not in running.ask("/metrics")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert running.end() == 0
        for thread in waiting:
            thread.join()
        assert [status for status, *_ in answers] == [200] * 3
        (log,) = (tmp_path / "log").iterdir()
        assert len(log.read_text().splitlines()) == 3, "what waits to be logged is, too"
        with pytest.raises(ConnectionRefusedError):
            running.ask("/v2/health/live")
        assert not [line for line in running.lines if "Traceback" in line or "ERROR" in line], running.lines


def test_a_server_that_is_stopped_while_it_loads_ends_in_peace(tmp_path: Path) -> None:
    write_model(tmp_path / "scenes", steps=1)
    with server(tmp_path, "--model", "scenes") as running:
        assert running.end() == 0
        assert not [line for line in running.lines if "Traceback" in line], running.lines


def test_an_ipv6_address_is_shown_as_urls_write_it_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    def serve(host: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "components", "serve", "--model", str(tmp_path), "--port", "0", "--host", host]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)

    empty = serve("")  # of a variable that is not set: it would stand for all addresses of the machine
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr.startswith("error: --host is '', expected an address")
    if socket.has_ipv6:
        assert re.match(r"listening on http://\[::1\]:\d+\n", serve("::1").stdout)

"""Metrics are sent beside the training, which waits for no server; what was not sent stays in the journal."""

import json
import math
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from mlflow.protos.service_pb2 import LogBatch

from components.tracking import client, metric_sender
from components.tracking.journal import Entry, Journal, entry_now
from components.tracking.metric_sender import MetricSender
from components.tracking.run import Run
from segmodels.errors import InputError, TransientError


class FakeRun(Run):
    """Takes metrics while ``away`` is None; else raises it. ``hang`` holds each call up."""

    def __init__(self) -> None:
        super().__init__(client=None, run_id="1")
        self.points: list[tuple[int, str, float]] = []
        self.patience: list[float | None] = []
        self.status = "RUNNING"
        self.away: Exception | None = None
        self.hang = threading.Event()
        self.hang.set()
        self.called = threading.Semaphore(0)

    def send(self, entries: Sequence[Entry], seconds: float | None = None) -> None:
        self.patience.append(seconds)
        self.called.release()
        self.hang.wait(20)
        if self.away:
            raise self.away
        self.points += [(entry.step, name, value) for entry in entries for name, value in entry.metrics.items()]

    def end(self, status: str = "FINISHED", seconds: float | None = None) -> None:
        self.send([], seconds)
        self.status = status


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


def entry(step: int) -> Entry:
    return Entry(step, step, {"val/miou": step / 10})


def test_metrics_arrive_in_their_order_and_the_run_ends_after_the_last(run: FakeRun) -> None:
    sender = MetricSender(run, [entry(0)])
    for step in range(1, 5):
        sender.add(entry(step))
    assert sender.finish("FINISHED", 10) == 0
    assert run.points == [(step, "val/miou", step / 10) for step in range(5)]
    assert run.status == "FINISHED"


def test_nobody_waits_for_a_server_that_hangs(run: FakeRun) -> None:
    sender = MetricSender(run, [])
    run.hang.clear()
    sender.add(entry(0))
    run.called.acquire()  # the thread is inside the call
    began = time.monotonic()
    for step in range(1, 100):
        sender.add(entry(step))
    assert sender.finish("KILLED", 0.2) == 100
    assert time.monotonic() - began < 2
    assert run.status == "RUNNING"
    run.hang.set()


@pytest.mark.parametrize("error", [TransientError("MLflow is away"), InputError("refused"), RuntimeError("a bug")])
def test_an_outage_is_said_once_and_metrics_follow_when_it_is_over(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(metric_sender, "PAUSE", 0.01)
    run.away = error
    sender = MetricSender(run, [entry(0)])
    for _ in range(4):
        run.called.acquire()
    run.away = None
    sender.add(entry(1))
    assert sender.finish("FINISHED", 10) == 0
    assert [step for step, *_ in run.points] == [0, 1]
    assert capsys.readouterr().out.count("metrics wait in the journal, the training continues") == 1
    assert run.patience[:2] == [metric_sender.PATIENCE, metric_sender.PATIENCE_AWAY]


def test_files_that_are_refused_are_said_once(run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InputError("the token has expired")

    sender = MetricSender(run, [])
    for _ in range(5):
        sender.upload(refuse)
    assert sender.finish("FINISHED", 10) == 0
    sender._thread.join(10)
    assert capsys.readouterr().out.count("the token has expired") == 1


def test_while_the_server_is_away_it_is_asked_once_a_minute(run: FakeRun) -> None:
    run.away = TransientError("MLflow is away")
    sender = MetricSender(run, [entry(0)])
    run.called.acquire()
    for step in range(1, 10):
        sender.add(entry(step))
    assert not run.called.acquire(timeout=0.3)
    assert sender.finish("FINISHED", 10) == 10, "the end is one attempt more"
    assert len(run.patience) == 2
    assert run.status == "RUNNING"


def test_a_run_whose_end_alone_is_missing_is_unfinished(run: FakeRun) -> None:
    sender = MetricSender(run, [])
    run.away = TransientError("MLflow is away")
    assert sender.finish("FINISHED", 10) == -1


# --- against a socket


class Server(ThreadingHTTPServer):
    """Takes what MLflow's REST interface takes, or hangs, or answers with an error."""

    daemon_threads = True

    def __init__(self, code: int = 200, hang: float = 0.0) -> None:
        received: list[tuple[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, json.loads(body)))
                threading.Event().wait(hang)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(b"{}" if code == 200 else b"<p>No.</p>")

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that waits no longer
        self.received = received
        self.uri = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()


@pytest.mark.parametrize(
    ("code", "hang", "kind", "words"),
    [
        (200, 30.0, TransientError, "no answer in time"),
        (503, 0.0, TransientError, "503"),
        (500, 0.0, TransientError, "500"),
        (429, 0.0, TransientError, "429"),
        (401, 0.0, InputError, "denies access"),
        (403, 0.0, InputError, "denies access.*allowed-hosts"),
        (404, 0.0, InputError, "is not an MLflow server"),
    ],
)
def test_the_first_request_is_short_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, code: int, hang: float, kind: type[Exception], words: str
) -> None:
    monkeypatch.setattr(client, "PROBE_SECONDS", 0.3)
    server = Server(code, hang)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", "://me:SECRET@"))
    began = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        client.mlflow_client()
    assert time.monotonic() - began < 5
    assert len(server.received) == 1
    assert "SECRET" not in str(caught.value)
    server.shutdown()


# --- the journal


def test_the_journal_keeps_whole_lines_and_skips_torn_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    assert journal.entries() == []
    journal.append(entry(0))
    with journal.path.open("ab") as file:
        file.write(b'{"step": 1, "time": 1, "metr')  # killed while writing
    journal.append(entry(2))
    with journal.path.open("ab") as file:
        file.write(b"\0\0\0\0\n[]\nnull\n\xff\xfe\n" + b"[" * 100_000 + b"\n")  # power loss
    journal.append(entry(3))
    assert journal.entries() == [entry(0), entry(2), entry(3)]
    assert "6 of its 9 lines are skipped" in capsys.readouterr().out


def test_undefined_scores_are_left_out_and_losses_that_diverged_are_not() -> None:
    made = entry_now({"val/miou": 0.5, "val/absent": float("nan"), "val/loss": float("nan")}, 3)
    assert (made.step, list(made.metrics)) == (3, ["val/miou", "val/loss"])


def test_a_server_takes_numbers_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run = Run(client.mlflow_client(), "1")
    run.send([Entry(0, 7, {"loss": float("nan"), "low": float("-inf"), "val/miou": 0.5})], seconds=5)
    path, body = server.received[-1]
    assert path == "/api/2.0/mlflow/runs/log-batch"
    assert [point.value for point in ParseDict(body, LogBatch()).metrics[1:]] == [-math.inf, 0.5]
    assert body["metrics"][0] == {"key": "loss", "value": "NaN", "timestamp": 7, "step": 0}
    server.shutdown()

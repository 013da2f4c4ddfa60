"""What tracking costs a training while the MLflow server is slow, hangs or refuses: ``python -m benchmarks.tracking``.

Target: at most 1 %. A U-Net trains on random images; after each epoch of a second its metrics are logged as train does
it. The server is a stand-in that changes its behaviour once the run has started. What tracking can take from a training
is counted where it is spent: the seconds in which the training's thread logs, and the processor time of the thread that
sends, as if no core were free for it. Epochs with and without tracking differ by more from one pair to the next. Each
training is ended as by SIGTERM. A minute.
"""

import io
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from benchmarks.report import markdown_table, write_section
from components.tracking.tracked_training import TrackedTraining
from components.tracking.validation_pictures import ValidationPictures
from segmodels.models.registry import create_model

EPOCHS, EPOCH_SECONDS = 10, 1.0
METRICS = {f"val/iou/class {number}": 0.1 * number for number in range(20)}
BEHAVIOURS = ("answers at once", "answers in 50 ms", "hangs", "refuses")
ANSWER = (
    b'{"experiment": {"experiment_id": "1", "lifecycle_stage": "active"},'
    b' "run": {"info": {"run_id": "1", "status": "RUNNING", "lifecycle_stage": "active"}, "data": {}}}'
)


class Server(ThreadingHTTPServer):
    """Takes all that MLflow's client sends; ``delay`` seconds pass before it answers."""

    daemon_threads = True
    delay = 0.0

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(server.delay)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(ANSWER)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def behave(self, behaviour: str) -> None:
        self.delay = {"answers in 50 ms": 0.05, "hangs": 1000.0}.get(behaviour, 0.0)
        if behaviour == "refuses":
            self.shutdown()
            self.server_close()


class Seconds(NamedTuple):
    """Of some epochs in a row."""

    epochs: float
    logging: float
    longest_call: float
    sending: float
    leaving: float


def main() -> None:
    epoch = fixed_work()
    rows: list[list[object]] = []
    for behaviour in BEHAVIOURS:
        seconds = measure(behaviour, epoch)
        share = (seconds.logging + seconds.sending) / seconds.epochs
        milliseconds = (1000 * seconds.logging, 1000 * seconds.longest_call, 1000 * seconds.sending)
        rows.append([behaviour, *milliseconds, f"{share:.2%}", seconds.leaving])
    header = [
        "the server",
        "logging, ms",
        "longest call, ms",
        "sending, ms",
        "of the epochs",
        "s to leave after SIGTERM",
    ]
    text = (
        f"{EPOCHS} epochs of {seconds.epochs / EPOCHS:.2f} s, {len(METRICS)} metrics each. Logging is wall time of the"
        f" training's thread, sending processor time of another.\n\n{markdown_table(header, rows)}"
    )
    write_section("Tracking", text, ("mlflow",))


def fixed_work() -> Callable[[], None]:
    """An epoch: as many training steps as take about ``EPOCH_SECONDS`` here."""
    torch.manual_seed(0)
    model = create_model("unet", 4, widths=[8, 16, 32])
    images, optimizer = torch.randn(4, 3, 64, 64), torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        model(images).logits.square().mean().backward()
        optimizer.step()

    for _ in range(20):
        step()
    start = time.perf_counter()
    for _ in range(20):
        step()
    steps = max(round(20 * EPOCH_SECONDS / (time.perf_counter() - start)), 1)

    def epoch() -> None:
        for _ in range(steps):
            step()

    return epoch


def measure(behaviour: str, epoch: Callable[[], None]) -> Seconds:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        server = Server()
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"
        run = tracking(Path(folder) / "state")
        run.__enter__()
        server.behave(behaviour)
        (sender,) = (thread for thread in threading.enumerate() if thread.name == "metrics")
        assert sender.ident is not None
        clock = time.pthread_getcpuclockid(sender.ident)
        calls, sent, start = [], time.clock_gettime(clock), time.perf_counter()
        for number in range(EPOCHS):
            epoch()
            before = time.perf_counter()
            run.log(number, METRICS)
            calls.append(time.perf_counter() - before)
        end = time.perf_counter()
        sending = time.clock_gettime(clock) - sent
        run.__exit__(SystemExit, SystemExit(143), None)
        leaving = time.perf_counter() - end
        if behaviour != "refuses":
            server.shutdown()
            server.server_close()
    return Seconds(end - start, sum(calls), max(calls), sending, leaving)


def tracking(state: Path) -> TrackedTraining:
    reader: Any = SimpleNamespace(source={"kind": "digits"}, digest="0" * 32)
    task: Any = None  # no pictures are drawn
    return TrackedTraining(
        experiment="benchmark",
        name="unet",
        params={},
        facts={"data_digest": "0"},
        description="",
        columns=(),
        state=state,
        reader=reader,
        task=task,
        pictures=ValidationPictures(task, state / "pictures", EPOCHS, 1),
        system_metrics=False,
        enabled=True,
    )


if __name__ == "__main__":
    main()

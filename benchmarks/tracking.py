"""What tracking costs a training while the MLflow server is slow, hangs or refuses: ``python -m benchmarks.tracking``.

A U-Net trains on random images; after each epoch of a quarter of a second its metrics are logged as train does it. The
server is a stand-in that changes its behaviour once the run has started. The speed is that of the fastest epoch, over
the fastest without tracking, in turns. Then the training is ended as by SIGTERM.
"""

import os
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.report import markdown_table, write_section
from components.tracking.tracked_training import TrackedTraining
from segmodels.models.registry import create_model

ROUNDS, EPOCHS, EPOCH_SECONDS = 3, 16, 0.25
METRICS = {f"val/iou/class {number}": 0.1 * number for number in range(20)}
BEHAVIOURS = ("no tracking", "answers at once", "answers in 50 ms", "hangs", "refuses")
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


def main() -> None:
    torch.manual_seed(0)
    model = create_model("unet", 4, widths=[8, 16, 32])
    images, optimizer = torch.randn(4, 3, 64, 64), torch.optim.SGD(model.parameters(), lr=1e-3)

    def train(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            model(images).logits.square().mean().backward()
            optimizer.step()
        return time.perf_counter() - start

    steps = 1
    while train(steps) < EPOCH_SECONDS:
        steps *= 2
    epochs: dict[str, list[float]] = {behaviour: [] for behaviour in BEHAVIOURS}
    logging = dict.fromkeys(BEHAVIOURS, 0.0)
    leaving = dict.fromkeys(BEHAVIOURS, 0.0)
    for _ in range(ROUNDS):
        for behaviour in BEHAVIOURS:
            with tempfile.TemporaryDirectory() as folder:
                tracked, server = tracking(Path(folder) / "state", enabled=behaviour != "no tracking"), Server()
                os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"
                run = tracked.__enter__()
                server.behave(behaviour)
                for epoch in range(EPOCHS):
                    took = train(steps)
                    start = time.perf_counter()
                    run.log(epoch, METRICS)
                    waited = time.perf_counter() - start
                    epochs[behaviour].append(took + waited)
                    logging[behaviour] = max(logging[behaviour], waited)
                start = time.perf_counter()
                run.__exit__(SystemExit, SystemExit(143), None)
                leaving[behaviour] = max(leaving[behaviour], time.perf_counter() - start)
                if behaviour != "refuses":
                    server.shutdown()
    plain = min(epochs["no tracking"])
    rows = [
        [behaviour, plain / min(times), 1000 * logging[behaviour], leaving[behaviour]]
        for behaviour, times in epochs.items()
    ]
    table = markdown_table(["the server", "× speed", "longest call, ms", "s to leave after SIGTERM"], rows)
    text = f"{ROUNDS} x {EPOCHS} epochs of {plain:.2f} s, {len(METRICS)} metrics each.\n\n{table}"
    write_section("Tracking", text, ("mlflow",))


def tracking(state: Path, *, enabled: bool) -> TrackedTraining:
    reader = SimpleNamespace(source={"kind": "digits"}, digest="0" * 32)
    return TrackedTraining(
        experiment="benchmark",
        name="unet",
        params={},
        facts={"data_digest": "0"},
        description="",
        columns=(),
        state=state,
        reader=reader,
        system_metrics=False,
        enabled=enabled,
    )


if __name__ == "__main__":
    main()

"""What a client gets of the model server, against the bare model in a loop: ``python -m benchmarks.serving``.

The server is a process of its own (``python -m components serve``), its clients are threads here. Each sends the same
PNG over one connection, and the next when the answer is there. The loop predicts the same image, decoded once, one at a
time: no HTTP, no PNG, no waiting. It is measured beside each run of the server, which is idle meanwhile.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.report import markdown_table, write_section
from segmodels.data.digits import scene, split_sources
from segmodels.inference.bundle import load_bundle, save_bundle
from segmodels.inference.predictor import Predictor
from segmodels.labels import LabelMap
from segmodels.models.registry import create_model
from segmodels.tasks.registry import create_task

SIDE, CLASSES, WIDTHS, BATCH = 128, 11, [16, 32, 64, 128, 256], 8
WINDOWS, CLIENTS = (0, 5, 20), (1, 8)  # ms; threads
SECONDS, WARMUP = 8.0, 1.0


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    image, _ = scene(np.random.default_rng(0), split_sources(0)["train"], SIDE)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = write_model(Path(name) / "model")
        predictor = Predictor(load_bundle(folder))
        for window in WINDOWS:
            with server(folder, window) as port:
                for clients in CLIENTS:
                    loop = images_per_second(predictor, [image])
                    batches, latencies = ask(port, data.getvalue(), clients)
                    rate = len(latencies) / SECONDS
                    median, late = np.percentile(latencies, [50, 99])
                    rows.append(
                        [
                            f"{window} ms",
                            clients,
                            rate,
                            median,
                            late,
                            len(latencies) / max(batches, 1),
                            loop,
                            rate / loop,
                        ]
                    )
        together = images_per_second(predictor, [image] * BATCH)
    text = (
        f"U-Net {WIDTHS[0]}..{WIDTHS[-1]}, {CLASSES} classes, image {SIDE}x{SIDE}, float32 on the CPU, one thread of"
        f" torch; `POST /predict`, PNG in and out, at most {BATCH} images per batch, {SECONDS:g} s per row, clients on"
        f" the same cores. The bare loop predicts one decoded image at a time (batches of {BATCH}: {together:.0f}"
        " images/s).\n\n"
    )
    header = [
        "batch window",
        "clients",
        "requests/s",
        "p50, ms",
        "p99, ms",
        "images per batch",
        "bare loop, images/s",
        "ratio",
    ]
    write_section("Serving", text + markdown_table(header, rows), ("torch", "fastapi", "uvicorn", "pillow"))


def write_model(folder: Path) -> Path:
    """Untrained: its speed is the same."""
    torch.manual_seed(0)
    options = {"widths": WIDTHS}
    labels = LabelMap(tuple(map(str, range(CLASSES))), tuple((20 * c, 0, 0) for c in range(CLASSES)), {})
    model, mean, std = create_model("unet", CLASSES, **options), (127.0,) * 3, (60.0,) * 3
    save_bundle(
        folder,
        model,
        name="unet",
        options=options,
        task=create_task("semantic", labels),
        mean=mean,
        std=std,
        lineage={},
    )
    return folder


def images_per_second(predictor: Predictor, images: list[np.ndarray], seconds: float = 2.0) -> float:
    predictor.masks(images)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += len(predictor.masks(images))
    return count / elapsed


@contextmanager
def server(folder: Path, window: float) -> Iterator[int]:
    """The port of a server of the model that is ready."""
    options = {"model": folder, "port": 0, "batch-window": window, "max-batch": BATCH, "threads": 1}
    command = [sys.executable, "-m", "components", "serve", *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    try:
        (port,) = re.findall(r":(\d+)$", process.stdout.readline().strip())
        assert "is served" in process.stdout.readline()
        yield int(port)
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, image: bytes, clients: int) -> tuple[int, list[float]]:
    """Batches and latencies in ms within ``SECONDS``, after a warm-up."""
    start = time.perf_counter() + WARMUP
    latencies: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while (sent := time.perf_counter()) < start + SECONDS:
            connection.request("POST", "/predict", image)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
            if sent >= start:
                latencies.append(1e3 * (time.perf_counter() - sent))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(WARMUP)
    before = batches_done(port)
    for thread in threads:
        thread.join()
    return batches_done(port) - before, latencies


def batches_done(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    (count,) = re.findall(r"^segmodels_batches_total (\d+)$", connection.getresponse().read().decode(), re.MULTILINE)
    connection.close()
    return int(count)


if __name__ == "__main__":
    main()

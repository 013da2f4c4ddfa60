"""Answer requests with a model over HTTP."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from threading import Event, Thread

from components.commands.option_ranges import check_options
from segmodels.errors import InputError
from segmodels.machine import check_folder

SECONDS_TO_FINISH = 25
"""Grace period in seconds for requests in flight after SIGTERM; Kubernetes sends SIGKILL after 30."""

BATCHES_PER_REQUEST = 8


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    batch_window: float = 0,
    max_batch: int = 8,
    max_megapixels: float = 4,
    max_megabytes: float = 32,
    poll: float = 30,
    threads: int | None = None,
    log: Path | None = None,
    log_share: float = 0.1,
    log_megabytes: float = 100,
    log_images: bool = False,
) -> None:
    """Serve a model until SIGTERM or SIGINT; requests in flight are answered first.

    Paths: ``/v2/...`` of the Open Inference Protocol, ``/predict`` for image files, ``/classes``, ``/metrics``. The
    server is live at once, and ready when the model is loaded. Another version under the alias is loaded beside the one
    that serves and takes its place; if loading fails, the error is logged and the old version keeps serving. Images are
    predicted with the settings that the version was measured with.

    Args:
        model: ``models:/NAME@champion`` (followed), ``models:/NAME/VERSION`` or the folder of a trained model.
        host, port: where to listen; port 0 takes any free one.
        batch_window: milliseconds that a request waits for others, to be predicted together; with 0 only requests that
            arrive during a prediction share a batch, which on a CPU is as fast under load (benchmarks/RESULTS.md) and
            faster otherwise.
        max_batch: images predicted at once. A request holds at most eight times as many, and is predicted batch by
            batch, taking turns with the other requests.
        max_megapixels: million pixels of a request's images together, and of a batch; sides of less than 32 pixels (of
            volumes 16) count as that. Memory grows with it: a U-Net of widths 16..256 needs about 0.4 GB per million
            pixels beside 0.5 GB of its own.
        max_megabytes: million bytes of a request. The requests in flight hold at most four times as many together.
        poll: seconds between checks of the alias.
        threads: CPU threads of torch. None lets torch choose, which ignores a container's CPU limit.
        log: folder for statistics of the images of some requests, which `python -m components drift` reads. None:
            nothing is logged.
        log_share: share of the requests that are logged, chosen at random, above 0 and at most 1.
        log_megabytes: million bytes of all files in that folder; the oldest are removed.
        log_images: keep the pixels of the logged images too, as .npy files.

    Raises:
        InputError: an option is out of range, the port is taken, or there is no such model.
        TransientError: the model registry does not answer at the start.
    """
    from PIL import Image

    most = 2e-6 * (Image.MAX_IMAGE_PIXELS or 0)
    check_options(
        host=(repr(host), bool(host.strip()), "an address, such as 127.0.0.1, or 0.0.0.0 for all of this machine"),
        port=(port, 0 <= port <= 65535, "0 to 65535"),
        batch_window=(batch_window, 0 <= batch_window <= 10_000, "0 to 10000 milliseconds"),
        max_batch=(max_batch, max_batch >= 1, "at least 1"),
        max_megapixels=(
            max_megapixels,
            0 < max_megapixels <= most,
            f"more than 0 and at most {most:.0f}, beyond which images are not decoded",
        ),
        max_megabytes=(max_megabytes, max_megabytes > 0, "more than 0"),
        poll=(poll, poll > 0, "more than 0 seconds"),
        threads=(threads, threads is None or threads >= 1, "at least 1"),
        log_share=(log_share, 0 < log_share <= 1, "more than 0 and at most 1"),
        log_megabytes=(log_megabytes, log_megabytes >= 1, "at least 1"),
    )
    if log is not None:
        check_folder(log)
    from components.tracking.model_registry import check_model

    check_model(model)
    listener = _listen(host, port)
    try:
        import uvicorn

        from components.serving.app import create_app
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs the package {error.name}: pip install 'segmodels[pipeline,serving]'") from None
    import torch

    from components.serving.batching import Batcher
    from components.serving.connections import TimedConnection
    from components.serving.limits import Limits
    from components.serving.live_model import LiveModel, ModelSource
    from components.serving.request_log import RequestLog

    if threads is not None:
        torch.set_num_threads(threads)
    live = LiveModel(ModelSource(model))
    pixels = int(max_megapixels * 1e6)
    kept = None if log is None else RequestLog(log, log_share, log_megabytes * 1e6, images=log_images)
    batcher = Batcher(live, window=batch_window / 1000, max_images=max_batch, max_pixels=pixels, log=kept)
    limits = Limits(images=BATCHES_PER_REQUEST * max_batch, pixels=pixels, length=int(max_megabytes * 1e6))
    config = uvicorn.Config(
        create_app(live, batcher, limits),
        http=TimedConnection,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    server = uvicorn.Server(config)
    failures: list[Exception] = []
    stop = Event()

    def load_and_follow() -> None:
        try:
            live.update()
        except Exception as error:  # raised again below, by the thread that a caller sees
            failures.append(error)
            server.should_exit = True
        else:
            live.follow(poll, stop)

    def leave(*_: object) -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, leave)  # the server raises the signal again when it has ended: that end is no failure
    loader = Thread(target=load_and_follow, name="loader", daemon=True)
    loader.start()
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{listener.getsockname()[1]}", flush=True)
    server.run(sockets=[listener])
    stop.set()
    batcher.close()
    if kept:
        kept.close()
    loader.join(SECONDS_TO_FINISH)
    if failures:
        raise failures[0]


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} of {host!r} ({error.strerror}): choose another --port or --host"
        ) from None
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # its connections inherit it; without it every answer may wait 40 ms for an acknowledgement
    return listener

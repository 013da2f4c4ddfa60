"""A model behind HTTP: the application of ``components.commands.serve`` on a test client, or on a port."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi.testclient import TestClient

from components.serving.app import create_app
from components.serving.batching import Batcher
from components.serving.connections import TimedConnection
from components.serving.limits import Limits
from components.serving.live_model import LiveModel, ModelSource
from components.serving.request_log import RequestLog


@contextmanager
def served(
    model: str,
    *,
    window: float = 0.0,
    max_batch: int = 8,
    max_pixels: int = 200_000,
    max_bytes: int = 2_000_000,
    seconds: float = 60.0,
    loaded: bool = True,
    log: RequestLog | None = None,
) -> Iterator[tuple[TestClient, LiveModel]]:
    """A client of the model, and what serves it; ``window`` in seconds."""
    live = LiveModel(ModelSource(model))
    if loaded:
        live.update()
    batcher = Batcher(live, window=window, max_images=max_batch, max_pixels=max_pixels, log=log)
    try:
        yield (
            TestClient(
                create_app(live, batcher, Limits(8 * max_batch, max_pixels, max_bytes, seconds)),
                raise_server_exceptions=False,
            ),
            live,
        )
    finally:
        batcher.close()
        if log:
            log.close()


@contextmanager
def listening(client: TestClient) -> Iterator[tuple[str, int]]:
    """Host and port where the application of a test client listens."""
    config = uvicorn.Config(
        client.app, http=TimedConnection, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)  # so that who does not read is seen early
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(10)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until it is true; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

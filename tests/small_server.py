"""A model behind HTTP without a network: the application of ``components.commands.serve`` on a test client."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient

from components.serving.app import create_app
from components.serving.batching import Batcher
from components.serving.limits import Limits
from components.serving.live_model import LiveModel, ModelSource


@contextmanager
def served(
    model: str,
    *,
    window: float = 0.0,
    max_batch: int = 8,
    max_pixels: int = 200_000,
    max_bytes: int = 2_000_000,
    loaded: bool = True,
) -> Iterator[tuple[TestClient, LiveModel]]:
    """A client of the model, and what serves it; ``window`` in seconds."""
    live = LiveModel(ModelSource(model))
    if loaded:
        live.update()
    batcher = Batcher(live, window=window, max_images=max_batch, max_pixels=max_pixels)
    try:
        yield (
            TestClient(
                create_app(live, batcher, Limits(pixels=max_pixels, length=max_bytes)), raise_server_exceptions=False
            ),
            live,
        )
    finally:
        batcher.close()

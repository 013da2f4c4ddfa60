"""Dynamic batching: requests that arrive within a window are predicted together."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np

from components.serving.live_model import LiveModel, ServedModel
from segmodels.errors import TransientError
from segmodels.tasks.base import Result

BATCHES_WAITING = 16
"""Full batches that may wait; further requests are refused, as their answers would come too late and their images fill
the memory.
"""


@dataclass(frozen=True)
class Answer:
    """Results in the order of the images, all of one version of the model."""

    results: list[Result]
    model: ServedModel


@dataclass
class Counts:
    """What has been done since the start."""

    requests: int = 0
    images: int = 0
    batches: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Waiting:
    images: Sequence[np.ndarray]
    pixels: int
    answer: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """One thread that predicts; a request's images stay together, so that one version of the model answers all of them.

    A batch is predicted when its first request has waited for ``window`` or the batch is full, whichever is first.
    Requests that arrive while a batch is predicted go into the next one, so that under load batches fill up even with a
    window of 0.

    Args:
        live: the model.
        window: seconds.
        max_images, max_pixels: of a batch. A request with more images is a batch of its own, predicted in parts of
            ``max_images``.
    """

    def __init__(self, live: LiveModel, *, window: float, max_images: int, max_pixels: int) -> None:
        self.counts = Counts()
        self._live = live
        self._window, self._max_images, self._max_pixels = window, max_images, max_pixels
        self._waiting: deque[_Waiting] = deque()
        self._images = self._pixels = 0  # of all that waits
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[np.ndarray]) -> Future[Answer]:
        """Results of images (*spatial, C), to come; raises InputError where the model cannot take an image.

        Raises:
            TransientError: too much waits already, or no model is loaded yet.
        """
        request = _Waiting(images, total_pixels(images))
        with self._changed:
            if self._live.current is None:
                raise TransientError(f"model {self._live.name!r} is still being loaded: try again in a few seconds")
            if self._images >= BATCHES_WAITING * self._max_images or self._pixels >= BATCHES_WAITING * self._max_pixels:
                raise TransientError(
                    f"{len(self._waiting)} requests wait already: try again in a few seconds, or add servers"
                )
            self._waiting.append(request)
            self._images += len(images)
            self._pixels += request.pixels
            self._changed.notify()
        return request.answer

    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Predict what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            self._predict([request for request in batch if request.answer.set_running_or_notify_cancel()])
            self.counts.seconds += time.monotonic() - started
            self.counts.batches += 1
            self.counts.requests += len(batch)
            self.counts.images += sum(len(request.images) for request in batch)

    def _next_batch(self) -> list[_Waiting]:
        """Empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            while (
                self._waiting
                and not self._closed
                and self._images < self._max_images
                and self._pixels < self._max_pixels
            ):
                left = self._waiting[0].arrived + self._window - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch: list[_Waiting] = []
            images = pixels = 0
            while self._waiting:
                images += len(self._waiting[0].images)
                pixels += self._waiting[0].pixels
                if batch and (images > self._max_images or pixels > self._max_pixels):
                    break
                batch.append(self._waiting.popleft())
                self._images -= len(batch[-1].images)
                self._pixels -= batch[-1].pixels
            return batch

    def _predict(self, batch: list[_Waiting]) -> None:
        """Answer every request; one that fails does not take its neighbours along."""
        model = self._live.current
        assert model is not None  # or nothing would have been submitted
        images = [image for request in batch for image in request.images]
        by_size = sorted(
            range(len(images)), key=lambda index: images[index].shape
        )  # neighbours of one size are predicted together
        try:
            predicted = model.predictor.results([images[index] for index in by_size], self._max_images)
        except Exception as error:  # a model may fail in any way, the thread must go on
            if len(batch) > 1:
                for request in batch:
                    self._predict([request])
            else:
                batch[0].answer.set_exception(error)
            return
        results, first = dict(zip(by_size, predicted, strict=True)), 0
        for request in batch:
            own = [results[first + offset] for offset in range(len(request.images))]
            request.answer.set_result(Answer(own, model))
            first += len(request.images)


def total_pixels(images: Sequence[np.ndarray]) -> int:
    """Of images (*spatial, C)."""
    return sum(math.prod(image.shape[:-1]) for image in images)

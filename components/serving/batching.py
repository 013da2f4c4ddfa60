"""Dynamic batching: images of all waiting requests share batches, and long requests take turns with short ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Condition, Thread

import numpy as np

from components.serving.live_model import LiveModel, ServedModel
from components.serving.request_log import LoggedRequest, RequestLog
from segmodels.errors import TransientError
from segmodels.inference.observation import Observer
from segmodels.inference.reference import Observation
from segmodels.prompts import Prompt
from segmodels.tasks.base import Result

BATCHES_WAITING = 16
"""Full batches that may wait; further requests are rejected, as their answers would come too late and their images fill
the memory.
"""


@dataclass(frozen=True)
class Answer:
    """Results in the order of the images, all of one version of the model."""

    results: list[Result]
    model: ServedModel


@dataclass
class Counts:
    """Totals since the start; ``seconds`` is the time spent predicting."""

    requests: int = 0
    images: int = 0
    batches: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class _Request:
    """``prompts``: of each image; ``costs``: pixels that the network sees of each; ``taken``: images that were put into
    batches so far; ``logged``: whether the request goes to the log, with the ``observations`` of its images.
    """

    images: Sequence[np.ndarray]
    prompts: Sequence[Sequence[Prompt] | None]
    costs: list[int]
    answer: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    model: ServedModel | None = None
    results: list[Result] = field(default_factory=list)
    taken: int = 0
    logged: bool = False
    observations: list[Observation] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.results) == len(self.images)


@dataclass(frozen=True)
class _Part:
    request: _Request
    model: ServedModel
    images: Sequence[np.ndarray]
    prompts: Sequence[Sequence[Prompt] | None]


class Batcher:
    """One thread that predicts batches.

    A batch is predicted when its first request has waited for ``window`` or the batch is full, whichever is first.
    Requests that arrive while a batch is predicted go into the next one, so that under load batches fill up even with a
    window of 0. A request that does not fit into a batch continues behind the others that wait; the version of the
    model that answers its first images answers all of them. A request whose answer is cancelled is dropped before the
    next batch.

    Args:
        live: the model.
        window: seconds.
        max_images, max_pixels: of a batch, in pixels as the network sees them (``Predictor.pixels_seen``). A single
            image may exceed ``max_pixels``: it is a batch of its own.
        log: takes some of the requests after they are answered; None: none.
    """

    def __init__(
        self, live: LiveModel, *, window: float, max_images: int, max_pixels: int, log: RequestLog | None = None
    ) -> None:
        self.counts = Counts()
        self.log = log
        self._live = live
        self._window, self._max_images, self._max_pixels = window, max_images, max_pixels
        self._waiting: deque[_Request] = deque()
        self._images = self._pixels = 0  # that wait
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[np.ndarray], prompts: Sequence[Sequence[Prompt]] | None = None) -> Future[Answer]:
        """A future with the results of images (*spatial, C); it raises InputError if the model cannot take an image.

        Args:
            images: (*spatial, C) each.
            prompts: of each image; None without any.

        Raises:
            TransientError: the queue is full, or no model is loaded yet.
        """
        with self._changed:
            model = self._live.current
            if model is None:
                raise TransientError(f"model {self._live.name!r} is still being loaded: try again in a few seconds")
            if self._images >= BATCHES_WAITING * self._max_images or self._pixels >= BATCHES_WAITING * self._max_pixels:
                raise TransientError(
                    f"{len(self._waiting)} requests wait already: try again in a few seconds, or add servers"
                )
            costs = [model.predictor.pixels_seen(image.shape[:-1]) for image in images]
            request = _Request(images, prompts or [None] * len(images), costs)
            request.logged = self.log is not None and self.log.wants()
            self._waiting.append(request)
            self._images += len(images)
            self._pixels += sum(request.costs)
            self._changed.notify()
        return request.answer

    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    def close(self) -> None:
        """Answer the waiting requests and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            self._predict(batch)
            self.counts.seconds += time.monotonic() - started
            self.counts.batches += 1

    def _next_batch(self) -> list[_Part]:
        """Empty when closed."""
        with self._changed:
            while True:
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
                batch = self._take()
                if batch or (self._closed and not self._waiting):
                    return batch

    def _take(self) -> list[_Part]:
        """Images for one batch, all for one version of the model, in the order of the queue."""
        batch: list[_Part] = []
        images, pixels = self._max_images, self._max_pixels  # that there is room for
        while self._waiting:
            request = self._waiting.popleft()
            costs = request.costs[request.taken :]
            if request.answer.done():  # cancelled, or an earlier part failed
                self._leave(costs)
                continue
            model = request.model or self._live.current
            assert model is not None  # or the request would have been refused
            same = not batch or model is batch[0].model
            count = _fitting(costs, images, pixels, least=0 if batch else 1) if same else 0
            if count == 0:
                self._waiting.appendleft(request)
                break
            part = slice(request.taken, request.taken + count)
            batch.append(_Part(request, model, request.images[part], request.prompts[part]))
            request.model, request.taken = model, request.taken + count
            images, pixels = images - count, pixels - sum(costs[:count])
            self._leave(costs[:count])
            if count < len(costs):  # the batch is full; the others come first
                self._waiting.append(request)
                break
        return batch

    def _leave(self, costs: Sequence[int]) -> None:
        """Images that wait no longer."""
        self._images -= len(costs)
        self._pixels -= sum(costs)

    def _predict(self, batch: list[_Part], observed: bool = True) -> None:
        """Predict a batch, and answer the requests that are complete; one that fails leaves its neighbours alone."""
        model = batch[0].model
        observer = None
        if observed and any(part.request.logged for part in batch):
            observer = Observer(model.predictor, model.reference.layer if model.reference else None)
        images = [image for part in batch for image in part.images]
        prompts = [own for part in batch for own in part.prompts]
        by_size = sorted(
            range(len(images)), key=lambda index: images[index].shape
        )  # neighbours of one size are predicted together
        try:
            predicted = model.predictor.results(
                [images[index] for index in by_size],
                self._max_images,
                [prompts[index] for index in by_size],
                **({"batch": observer.batch} if observer else {}),
            )
        except Exception as error:  # a model may fail in any way, and the thread must survive it
            if observer:
                self._predict(batch, observed=False)
            elif len(batch) > 1:
                for part in batch:
                    self._predict([part], observed)
            elif batch[0].request.answer.set_running_or_notify_cancel():
                batch[0].request.answer.set_exception(error)
            return
        results, first = dict(zip(by_size, predicted, strict=True)), 0
        self.counts.images += len(images)
        for part in batch:
            request = part.request
            request.results += [results[first + offset] for offset in range(len(part.images))]
            first += len(part.images)
            if request.complete and request.answer.set_running_or_notify_cancel():
                self.counts.requests += 1
                request.answer.set_result(Answer(request.results, model))
        if self.log is not None:
            self._log(self.log, batch, by_size, observer)

    def _log(self, log: RequestLog, batch: list[_Part], by_size: list[int], observer: Observer | None) -> None:
        """Hand the complete requests of a batch that was answered to the log."""
        seen: dict[int, Observation] = {}
        try:
            seen = dict(zip(by_size, observer.observations(), strict=True)) if observer else {}
        except Exception as error:  # the thread must survive it
            log.drop(0, error)
        first = 0
        for part in batch:
            request, numbers = part.request, range(first, first + len(part.images))
            first = numbers.stop
            request.observations += [seen[number] for number in numbers if number in seen]
            if not (request.logged and request.complete):
                continue
            if len(request.observations) == len(request.images):
                log.offer(LoggedRequest(part.model, request.images, request.results, request.observations))
            else:
                log.drop(len(request.images), RuntimeError("the model could not be observed"))


def _fitting(costs: Sequence[int], images: int, pixels: int, least: int) -> int:
    """How many of the first images fit, but not less than ``least``."""
    for count, total in enumerate(accumulate(costs)):
        if count >= least and (count == images or total > pixels):
            return count
    return len(costs)

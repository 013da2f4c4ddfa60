"""serve: requests are predicted together within a window, and no request suffers from its neighbours."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from components.serving.batching import BATCHES_WAITING, Batcher
from segmodels.errors import InputError, TransientError
from segmodels.results import ClassMap


class Recorder:
    """A predictor that writes down its batches; its masks are the images' first channel. It can be held, and refuses
    grey 13.
    """

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []
        self.largest: set[int] = set()
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    @staticmethod
    def pixels_seen(size: tuple[int, int]) -> int:
        return size[0] * size[1]

    def results(self, images: list[np.ndarray], batch_size: int, prompts: list[None]) -> list[ClassMap]:
        assert prompts == [None] * len(images)
        self.entered.set()
        assert self.free.wait(10)
        self.batches.append([image.shape[:2] for image in images])
        self.largest.add(batch_size)
        if any(image[0, 0, 0] == 13 for image in images):
            raise InputError("the model takes no 13")
        return [ClassMap(image[:, :, 0]) for image in images]


@contextmanager
def batching(
    window: float = 0.0, max_images: int = 4, max_pixels: int = 10_000
) -> Iterator[tuple[Batcher, Recorder, SimpleNamespace]]:
    recorder = Recorder()
    live = SimpleNamespace(name="scenes", current=SimpleNamespace(version="1", predictor=recorder))
    batcher = Batcher(live, window=window, max_images=max_images, max_pixels=max_pixels)  # type: ignore[arg-type]
    try:
        yield batcher, recorder, live
    finally:
        recorder.free.set()
        batcher.close()


def image(value: int, size: tuple[int, int] = (2, 3)) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.uint8)


def values(answers: list) -> list[int]:
    return [int(result.classes[0, 0]) for answer in answers for result in answer.result(10).results]


def test_requests_within_the_window_are_one_batch() -> None:
    with batching(window=0.4) as (batcher, recorder, _):
        started = time.monotonic()
        answers = [batcher.submit([image(value)]) for value in range(3)]
        assert values(answers) == [0, 1, 2]
        assert 0.35 < time.monotonic() - started < 2
        assert [len(batch) for batch in recorder.batches] == [3]


def test_a_full_batch_does_not_wait_for_the_window() -> None:
    with batching(window=30) as (batcher, recorder, _):
        assert values([batcher.submit([image(value)]) for value in range(4)]) == [0, 1, 2, 3]
        assert values([batcher.submit([image(1, (100, 100))])]) == [1]  # full by its pixels
        assert [len(batch) for batch in recorder.batches] == [4, 1]


def test_without_a_window_what_arrives_during_a_prediction_is_the_next_batch() -> None:
    with batching() as (batcher, recorder, _):
        recorder.free.clear()
        first = batcher.submit([image(9)])
        assert recorder.entered.wait(10)
        others = [batcher.submit([image(value)]) for value in range(6)]
        recorder.free.set()
        assert values([first, *others]) == [9, 0, 1, 2, 3, 4, 5]
        assert [len(batch) for batch in recorder.batches] == [1, 4, 2]


def test_a_batch_holds_at_most_so_many_pixels_but_any_request_gets_its_turn() -> None:
    with batching(max_pixels=100) as (batcher, recorder, _):
        recorder.free.clear()
        answers = [batcher.submit([image(0)])]
        assert recorder.entered.wait(10)
        answers += [batcher.submit([image(value, (6, 8))]) for value in (1, 2, 3)]
        answers.append(batcher.submit([image(4, (20, 20)), image(5)]))
        recorder.free.set()
        assert values(answers) == [0, 1, 2, 3, 4, 5]
        assert [len(batch) for batch in recorder.batches] == [1, 2, 1, 1, 1]


def test_images_of_one_size_are_neighbours_and_answers_keep_their_order() -> None:
    with batching(window=30, max_images=5) as (batcher, recorder, _):
        answers = [
            batcher.submit([image(0, (2, 3)), image(1, (4, 4))]),
            batcher.submit([image(2, (2, 3))]),
            batcher.submit([image(3, (4, 4)), image(4, (2, 3))]),
        ]
        assert values(answers) == [0, 1, 2, 3, 4]
        assert recorder.batches == [[(2, 3)] * 3 + [(4, 4)] * 2]
        assert recorder.largest == {5}


def test_a_request_that_fails_leaves_its_neighbours_alone() -> None:
    with batching(window=30, max_images=3) as (batcher, _, _live):
        answers = [batcher.submit([image(value)]) for value in (12, 13, 14)]
        with pytest.raises(InputError, match="takes no 13"):
            answers[1].result(10)
        assert values([answers[0], answers[2]]) == [12, 14]


def test_a_request_is_answered_by_one_version_whatever_happens_meanwhile() -> None:
    with batching() as (batcher, recorder, live):
        recorder.free.clear()
        first = batcher.submit([image(value) for value in range(9)])
        assert recorder.entered.wait(10)
        later = batcher.submit([image(9)])
        live.current = SimpleNamespace(version="2", predictor=recorder)
        recorder.free.set()
        assert (len(first.result(10).results), first.result(10).model.version) == (9, "1")
        assert later.result(10).model.version == "2"


def test_a_long_request_takes_turns_with_short_ones() -> None:
    with batching() as (batcher, recorder, _):
        recorder.free.clear()
        answers = [batcher.submit([image(0)])]
        assert recorder.entered.wait(10)
        answers += [batcher.submit([image(value, (3, 3)) for value in range(1, 12)])]
        answers += [batcher.submit([image(value)]) for value in (12, 14)]
        recorder.free.set()
        assert values(answers) == [*range(13), 14]
        assert [len(batch) for batch in recorder.batches] == [1, 4, 4, 4, 1]
        assert recorder.batches[2] == [(2, 3)] * 2 + [(3, 3)] * 2


def test_the_rest_of_a_cancelled_or_failed_request_is_not_predicted() -> None:
    with batching() as (batcher, recorder, _):
        recorder.free.clear()
        cancelled, failed = batcher.submit([image(0)] * 20), batcher.submit([image(13, (3, 3))] * 20)
        assert recorder.entered.wait(10)
        assert cancelled.cancel()
        recorder.free.set()
        with pytest.raises(InputError, match="takes no 13"):
            failed.result(10)
        assert values([batcher.submit([image(1, (5, 5))])]) == [1]
        assert recorder.batches == [[(2, 3)] * 4, [(3, 3)] * 4, [(5, 5)]]
        assert batcher.waiting() == 0


def test_more_than_can_be_answered_soon_is_refused_and_what_waits_is_answered() -> None:
    with batching() as (batcher, recorder, _):
        recorder.free.clear()
        accepted = [batcher.submit([image(0)])]
        assert recorder.entered.wait(10)
        accepted += [batcher.submit([image(1)]) for _ in range(BATCHES_WAITING * 4)]
        assert batcher.waiting() == BATCHES_WAITING * 4
        with pytest.raises(TransientError, match="64 requests wait already: try again"):
            batcher.submit([image(1)])
        recorder.free.set()
        assert len(values(accepted)) == 65
        assert values([batcher.submit([image(2)])]) == [2]


def test_a_cancelled_request_is_not_predicted() -> None:
    with batching() as (batcher, recorder, _):
        recorder.free.clear()
        first = batcher.submit([image(0)])
        assert recorder.entered.wait(10)
        cancelled, kept = batcher.submit([image(1)]), batcher.submit([image(2, (5, 5))])
        assert cancelled.cancel()
        recorder.free.set()
        assert values([first, kept]) == [0, 2]
        assert recorder.batches == [[(2, 3)], [(5, 5)]]


def test_closing_answers_what_waits() -> None:
    with batching(window=30) as (batcher, _, _live):
        answers = [batcher.submit([image(value)]) for value in range(3)]
        batcher.close()
        assert values(answers) == [0, 1, 2]

"""Calls that several threads make at the same time are made once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from segmodels.data.shared_calls import SharedCalls

WAITING = 4


class Key:
    """Counts how often it is looked up, which happens under the lock of ``SharedCalls``."""

    def __init__(self) -> None:
        self.looked_up = threading.Semaphore(0)

    def __hash__(self) -> int:
        self.looked_up.release()
        return 0


@pytest.mark.parametrize("error", [None, KeyError("failed")])
def test_equal_calls_at_the_same_time_share_their_end(error: Exception | None) -> None:
    shared, key, calls, started = SharedCalls(), Key(), [0], threading.Event()

    def call() -> None:
        calls[0] += 1
        started.set()
        for _ in range(2 + WAITING):  # the first thread looks it up, and enters it
            assert key.looked_up.acquire(timeout=10)
        if error:
            raise error

    def make() -> str:
        try:
            shared.make(key, call)
        except KeyError:
            return "failed"
        return "done"

    with ThreadPoolExecutor(1 + WAITING) as pool:
        first = pool.submit(make)
        assert started.wait(10)
        ends = [first, *(pool.submit(make) for _ in range(WAITING))]
        assert {end.result() for end in ends} == {"failed" if error else "done"}
    assert calls == [1]
    for _ in range(WAITING):
        key.looked_up.release()
    make()
    assert calls == [2], "a later call is made again"

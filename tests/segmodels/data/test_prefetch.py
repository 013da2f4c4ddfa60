"""The thread that makes batches ahead."""

import threading
import time

import pytest

from segmodels.data.prefetching import prefetch
from segmodels.errors import InputError


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_gives_all_items_in_order():
    assert list(prefetch(iter(range(50)), depth=3)) == list(range(50))
    assert list(prefetch([], depth=3)) == []
    assert threads() == []


def test_prefetch_works_ahead_but_only_so_far():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    stream = prefetch(items(), depth=3)
    next(stream)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4
    stream.close()


def test_an_exception_in_the_thread_is_raised_where_the_item_was_due():
    def items():
        yield 1
        raise InputError("shard x is corrupt")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(InputError, match="shard x is corrupt"):
        next(stream)
    assert threads() == []

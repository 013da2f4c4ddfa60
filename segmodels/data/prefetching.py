"""Items that are made in a thread, ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar, cast

T = TypeVar("T")

PREFETCH = 3
"""Batches that are made ahead of their use."""


def prefetch(items: Iterable[T], depth: int = PREFETCH) -> Generator[T, None, None]:
    """The same items, made up to ``depth`` ahead in a thread.

    An exception while making an item is raised where the item was due. The thread ends with the items, or when the
    iterator is dropped.
    """
    ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    free = threading.Semaphore(depth)
    dropped = threading.Event()

    def fill() -> None:
        source = iter(items)
        while free.acquire() and not dropped.is_set():
            try:
                ready.put((next(source), None))
            except BaseException as error:
                ready.put((None, error))
                return

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            free.release()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(T, item)
    finally:
        dropped.set()
        free.release()
        if thread is not threading.current_thread():  # where the garbage collector may drop the iterator
            thread.join()

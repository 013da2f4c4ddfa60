"""Calls that several threads make at the same time, made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future


class SharedCalls:
    """Of calls with the same key at the same time, only the first is made; the others wait for its end or its error.

    Without it, threads that wait for one another's failing request would each fail in turn, after its own attempts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, Future[None]] = {}

    def make(self, key: Hashable, call: Callable[[], None]) -> None:
        """Make the call, or wait for the one that is running. Raises what it raises."""
        with self._lock:
            running = self._running.get(key)
            if running is None:
                own = self._running[key] = Future[None]()
        if running is not None:
            return running.result()
        try:
            call()
            own.set_result(None)
        except BaseException as error:
            own.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._running[key]

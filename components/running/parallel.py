"""Work over many samples on all cores, with the results in order and only a few of them in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from segmodels.errors import TransientError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Results per worker that wait for their turn at most."""


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """``map(function, items)`` in processes, results in the items' order.

    Args:
        function: a module-level function; its arguments and results must be picklable.
        workers: processes; 0 means one per core that this process may use.
        start: called with ``arguments`` once in each process, for what all calls of ``function`` have in common.

    Raises:
        TransientError: a process was killed, as the kernel does when memory runs out. Errors of ``function`` are raised
            as they are.
    """
    workers = workers or _cores()
    context = multiprocessing.get_context(
        "forkserver"
    )  # a fork of this process would inherit the locks that its threads hold
    context.set_forkserver_preload([function.__module__])  # imported once, not once in every worker
    pool = ProcessPoolExecutor(workers, context, _start_worker, (start, arguments))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise TransientError(
            f"one of {workers} worker processes was killed, most often for lack of memory: set fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends the pool
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

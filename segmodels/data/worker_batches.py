"""Batches made in worker processes, which hand them over in memory that both sides have mapped.

torch's DataLoader opens a socket and a memory map for every tensor that a worker hands over: milliseconds of Python in
the process that trains, at the cost of what it queues for the GPU. Here a batch costs it a short message and one copy,
and needs no room in /dev/shm, of which containers have little.
"""

from __future__ import annotations

import atexit
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from typing import Any, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from segmodels.data.batches import Batch
from segmodels.errors import InputError, TransientError

Order = TypeVar("Order")

SECONDS = 300.0
"""The longest wait for a batch. A worker that cannot hand one over (a file system that hangs, say) does not end."""

AHEAD = 2
"""Batches of each worker that are ordered and not yet taken."""

_ALIGNED = 64  # bytes between the starts of tensors


def worker_batches(
    make: Callable[[Order], Batch], orders: Iterable[Order], workers: int, *, pin: bool = False
) -> Iterator[Batch]:
    """``map(make, orders)`` in ``workers`` processes, in order. They live as long as the iterator; orders may go on
    without end.

    Args:
        make: picklable, as the orders are.
        pin: give batches in pinned memory, from which a GPU copies without making the host wait.

    Raises:
        Exception: what ``make`` raised, for example InputError.
        InputError: the processes cannot start.
        TransientError: a process was killed, or made no batch in ``SECONDS``.
    """
    prepare_workers(make.__module__)
    context = multiprocessing.get_context("forkserver")  # a fork of this process would inherit its threads' locks
    pool = [_Worker(context, make) for _ in range(workers)]
    ordered: deque[_Worker] = deque()
    try:
        for worker, order in zip(itertools.cycle(pool), orders, strict=False):
            batch = ordered.popleft().batch(pin) if len(ordered) == AHEAD * workers else None
            worker.order(order)
            ordered.append(worker)
            if batch is not None:
                yield batch
        while ordered:
            yield ordered.popleft().batch(pin)
    finally:
        for worker in pool:
            worker.end()


def prepare_workers(*modules: str) -> None:
    """Let a process import, once for all workers and while this one does other work, what they need."""
    forkserver.set_forkserver_preload([__name__, *modules])
    forkserver.ensure_running()


class _Worker:
    """A process that makes batches, seen from the one that trains."""

    def __init__(self, context: ForkServerContext, make: Callable[[Any], Batch]) -> None:
        self._connection, its_end = context.Pipe()
        files = [_memory_file() for _ in range(AHEAD)]
        self._memories = itertools.cycle([_Memory(file) for file in files])
        self._process = context.Process(
            target=_work, args=(make, its_end, [DupFd(file) for file in files]), daemon=True
        )
        self._process.start()
        # Before multiprocessing waits for its processes. Only this: a thread of the loader may be inside ``end``.
        atexit.register(self._process.kill)
        its_end.close()

    def order(self, order: Any) -> None:
        with suppress(BrokenPipeError):  # said where its batch is due
            self._connection.send(order)

    def batch(self, pin: bool) -> Batch:
        """The next of those ordered, in memory of its own."""
        try:
            if not self._connection.poll(SECONDS):
                raise TransientError(
                    f"a loader process made no batch in {SECONDS:.0f} seconds: look at its messages above, and whether"
                    " the storage of the shards answers; train.workers: 0 loads without processes"
                )
            made = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._why_it_ended() from None
        if isinstance(made, Exception):
            raise made
        size, batch = made
        shared = next(self._memories).of(size)
        own = shared.pin_memory() if pin else shared.clone()
        return tree_map_only(_Place, lambda place: place.tensor(own), batch)

    def end(self) -> None:
        atexit.unregister(self._process.kill)
        self._process.kill()
        self._process.join(5)
        self._connection.close()

    def _why_it_ended(self) -> InputError | TransientError:
        self._process.join(5)
        if self._process.exitcode == -signal.SIGKILL:
            return TransientError("a loader process was killed, most often for lack of memory: set fewer train.workers")
        return InputError(
            f"a loader process ended with exit code {self._process.exitcode}: look at its messages above. It imports"
            " the script that trains, whose work must be guarded by if __name__ == '__main__'; train.workers: 0 loads"
            " without processes"
        )


def _work(make: Callable[[Any], Batch], connection: Connection, files: list[Any]) -> None:
    """Serve as a worker until the training process closes the connection or ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the training, too, which saves its state and ends this
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)  # the workers share the cores already
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):  # the training may have been killed before it handed over its files
        memories = itertools.cycle([_Memory(file.detach()) for file in files])
        while True:
            order = connection.recv()
            try:
                connection.send(_handed_over(make(order), next(memories)))
            except Exception as error:
                if not isinstance(error, InputError | TransientError):
                    error.add_note(f"In a loader process:\n{traceback.format_exc()}")
                connection.send(error)


def _handed_over(batch: Batch, memory: _Memory) -> tuple[int, Batch]:
    """Bytes of the memory that the batch takes, and the batch with a ``_Place`` for each tensor."""
    places, size = [], 0

    def placed(tensor: Tensor) -> _Place:
        nonlocal size
        dense = tensor if tensor.is_contiguous(memory_format=torch.channels_last) else tensor.contiguous()
        place = _Place(tensor.dtype, tuple(dense.shape), dense.stride(), size)
        places.append((place, dense))
        size += -(-place.nbytes // _ALIGNED) * _ALIGNED
        return place

    outline = tree_map_only(Tensor, placed, batch)
    shared = memory.of(size)
    for place, tensor in places:
        place.tensor(shared).copy_(tensor)
    return size, outline


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a memory. Its elements lie side by side, in any order of the axes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self, memory: Tensor) -> Tensor:
        """The tensor there; shares the memory."""
        values = memory[self.start : self.start + self.nbytes].view(self.dtype)
        return values.as_strided(self.shape, self.stride, values.storage_offset())


class _Memory:
    """A map of a file in memory, which grows with the batches."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def of(self, size: int) -> Tensor:
        """Its first ``size`` bytes."""
        if size > len(self._bytes):
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._bytes = torch.frombuffer(mmap.mmap(self._file, size), dtype=torch.uint8)
        return self._bytes[:size]

    def __del__(self) -> None:
        os.close(self._file)


def _memory_file() -> int:
    """Descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("batch")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

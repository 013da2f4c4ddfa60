"""Batches made in worker processes, which hand them over in shared memory."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import cv2
import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_map_only_
from torch.utils.data import DataLoader, Dataset

from segmodels.data.batches import Batch
from segmodels.errors import InputError, TransientError

T = TypeVar("T")

SECONDS = 300.0
"""The longest wait for a batch. A worker that cannot hand one over (a file system that hangs, say) does not end."""

POLL_SECONDS = 5.0
"""How often the wait looks whether the workers are alive."""

MORE_SHARED_MEMORY = (
    "give it more (docker run --shm-size=2g; on Kubernetes a volume emptyDir with medium: Memory at /dev/shm), or set"
    " train.workers to 0"
)


def worker_batches(make: Callable[[np.ndarray], Batch], batches: Sequence[np.ndarray], workers: int) -> Iterator[Batch]:
    """``map(make, batches)`` in ``workers`` processes, in order.

    Args:
        make: the batch of these samples; picklable.

    Raises:
        InputError: what ``make`` raised, or shared memory is full.
        TransientError: a worker was killed, or no batch came for ``SECONDS``.
    """
    context = multiprocessing.get_context("forkserver")  # a fork of this process would inherit its threads' locks
    context.set_forkserver_preload([__name__])
    loader = DataLoader(
        _Shared(make),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        multiprocessing_context=context,
        timeout=POLL_SECONDS,
    )
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    made = iter(loader)
    if main:  # torch's handler raises when a worker dies, whatever the main thread is at; _next finds out by itself
        signal.signal(signal.SIGCHLD, before)
    for _ in batches:
        batch = _next(made, workers)
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _next(made: Iterator[Batch | InputError], workers: int) -> Batch | InputError:
    waiting_since = time.monotonic()
    while True:
        try:
            return next(made)
        except RuntimeError as error:
            if str(error).startswith("DataLoader timed out"):
                if time.monotonic() - waiting_since < SECONDS:
                    continue
                raise TransientError(
                    f"the {workers} loader processes made no batch in {SECONDS:.0f} seconds: see their messages above,"
                    " and whether the storage of the shards answers; train.workers: 0 loads without processes"
                ) from None
            if str(error).startswith("DataLoader worker"):
                raise TransientError(
                    f"one of {workers} loader processes was killed, most often for lack of memory: set fewer"
                    " train.workers"
                ) from None
            raise


class _Shared(Dataset[Batch | InputError]):
    """Batches in shared memory; sent to the workers."""

    def __init__(self, make: Callable[[np.ndarray], Batch]) -> None:
        self._make = make

    def __getitem__(self, indices: np.ndarray) -> Batch | InputError:
        """Errors are handed over as values: DataLoader would bury their sentences in a worker's traceback."""
        try:
            batch = self._make(indices)
        except InputError as error:
            return error
        try:
            tree_map_only_(Tensor, Tensor.share_memory_, batch)  # here: in DataLoader's thread an error is lost
        except RuntimeError as error:
            return InputError(
                f"the loader processes cannot hand over a batch in shared memory, /dev/shm ({error}):"
                f" {MORE_SHARED_MEMORY}"
            )
        return batch


def _start_worker(_number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the training too, which saves its state and ends them
    cv2.setNumThreads(0)  # the workers share the cores already


def _unchanged(batch: T) -> T:
    return batch

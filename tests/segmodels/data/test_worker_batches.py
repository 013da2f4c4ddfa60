"""Loader processes that cannot go on end the training in a sentence, never in a wait without end."""

import os
import resource
import signal
import time

import numpy as np
import pytest
import torch

from segmodels.data import worker_batches
from segmodels.data.batches import Batch
from segmodels.errors import InputError, TransientError


def full(indices: np.ndarray) -> Batch:
    """Files are limited as /dev/shm is in a container."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    return Batch(torch.zeros(1 << 20), None, torch.from_numpy(indices))


def killed(_: np.ndarray) -> Batch:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hanging(_: np.ndarray) -> Batch:
    time.sleep(2.5)
    raise AssertionError


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (full, InputError, r"shared memory, /dev/shm \(.*File too large.*--shm-size.*emptyDir.*train.workers"),
        (killed, TransientError, "one of 1 loader processes was killed"),
        (hanging, TransientError, "the 1 loader processes made no batch in 1 seconds"),
    ],
)
def test_a_worker_that_cannot_go_on_ends_in_a_sentence(make, kind, said, monkeypatch):
    monkeypatch.setattr(worker_batches, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(worker_batches, "SECONDS", 1 if make is hanging else 120)  # a busy machine starts slowly
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(kind, match=said):
        list(worker_batches.worker_batches(make, [np.arange(2)] * 3, 1))
    assert signal.getsignal(signal.SIGCHLD) == before, "no handler raises in the midst of other work"

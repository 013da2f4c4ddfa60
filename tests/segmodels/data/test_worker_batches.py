"""Batches from worker processes: the same tensors, in order; and an end in a sentence where a process cannot go on."""

import contextlib
import itertools
import multiprocessing
import os
import resource
import signal
import time
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from segmodels.data import worker_batches as module
from segmodels.data.batches import Batch
from segmodels.data.worker_batches import worker_batches
from segmodels.errors import InputError, TransientError


class Targets(NamedTuple):
    """Every form of tensor that targets have."""

    masks: list[Tensor]
    empty: Tensor
    swapped: Tensor
    missing: Tensor | None = None


def varied(number: int) -> Batch:
    """Images in channels_last memory, targets of many types, whose sizes grow and shrink."""
    generator = torch.Generator().manual_seed(number)
    size = 1 + 7 * (number % 5)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)
    floats = torch.randn(3, size, 2, generator=generator)
    targets = Targets(
        masks=[floats.bfloat16(), floats > 0, torch.tensor(number)],
        empty=torch.empty(0, 4),
        swapped=floats.double().permute(2, 0, 1),
    )
    return Batch(images.contiguous(memory_format=torch.channels_last), targets, torch.tensor([number, os.getpid()]))


def refused(_: int) -> Batch:
    raise InputError("shard 3 is damaged")


def faulty(_: int) -> Batch:
    raise KeyError("a bug")


def full(_: int) -> Batch:
    """Files are limited, those in memory, too."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    return Batch(torch.zeros(1 << 20), None, torch.zeros(1))


def killed(_: int) -> Batch:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def leaving(_: int) -> Batch:
    os._exit(3)


def hanging(_: int) -> Batch:
    time.sleep(60)
    raise AssertionError


def process(batch: Batch) -> int:
    return int(batch.ids[1])


def alive(pids: set[int]) -> set[int]:
    found = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            found.add(pid)
    return found


def test_batches_are_those_that_one_process_makes_each_in_memory_of_its_own():
    batches = list(worker_batches(varied, range(23), 2))
    assert len({process(batch) for batch in batches}) == 2
    for number, batch in enumerate(batches):
        expected = varied(number)._replace(ids=batch.ids)
        assert batch.ids[0] == number
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for one, other in zip(tree_leaves(batch), tree_leaves(expected), strict=True):
            assert (one is None and other is None) or (one.dtype == other.dtype and torch.equal(one, other))


def test_orders_may_have_no_end_and_the_processes_end_with_the_iterator():
    ordered = itertools.count()
    batches = worker_batches(varied, ordered, 2)
    pids = {process(next(batches)) for _ in range(9)}
    assert len(pids) == 2
    assert next(ordered) == 9 + 2 * module.AHEAD, "no more than two batches ahead of each process"
    batches.close()
    assert not multiprocessing.active_children()
    assert not alive(pids)


def test_random_numbers_of_the_training_stay_as_they_are():
    before = torch.get_rng_state()
    list(worker_batches(varied, range(3), 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_the_answer_to_the_training(number):
    batches = worker_batches(varied, itertools.count(), 1)
    os.kill(process(next(batches)), number)
    assert [int(next(batches).ids[0]) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    batches.close()


class Gone:
    """A file of a process that was killed."""

    def detach(self):
        raise ConnectionRefusedError


def test_a_process_that_begins_after_the_training_was_killed_ends_without_a_word():
    context = multiprocessing.get_context("forkserver")
    worker = context.Process(target=module._work, args=(varied, context.Pipe()[1], [Gone()]))
    worker.start()
    worker.join()
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (refused, InputError, "^shard 3 is damaged$"),
        (faulty, KeyError, "a bug"),
        (full, OSError, "File too large"),
        (killed, TransientError, "a loader process was killed, most often for lack of memory: set fewer train.workers"),
        (leaving, InputError, r"a loader process ended with exit code 3: .* if __name__ == '__main__'"),
        (hanging, TransientError, "a loader process made no batch in 1 seconds: .*train.workers: 0"),
    ],
)
def test_a_process_that_cannot_go_on_ends_the_training_with_the_reason(make, kind, said, monkeypatch):
    if make is hanging:
        next(worker_batches(varied, range(1), 1))  # so that starting takes no second
        monkeypatch.setattr(module, "SECONDS", 1)
    with pytest.raises(kind, match=said) as caught:
        list(worker_batches(make, range(3), 1))
    assert not multiprocessing.active_children()
    if make is faulty:
        assert "in faulty\n" in caught.value.__notes__[0], "the process's own traceback"

"""Batches on the device, one ahead: what is asked of a GPU, on a double of its streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from segmodels.data.batches import Batch
from segmodels.training.feeding import on_device


def batches(log: list[str], count: int = 3) -> Iterator[Batch]:
    for number in range(count):
        log.append(f"load {number}")
        yield Batch(torch.full((2, 1, 4, 4), number), {"classes": torch.full((2, 4, 4), number)}, torch.arange(2))


def test_on_the_cpu_batches_pass_unchanged() -> None:
    log: list[str] = []
    for number, batch in enumerate(on_device(batches(log), torch.device("cpu"))):
        assert log == [f"load {n}" for n in range(number + 1)], "none is loaded ahead"
        assert batch.images[0, 0, 0, 0] == number


def test_a_gpu_copies_the_next_batch_in_a_stream_of_its_own_while_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    copies = iter(range(10))

    class Stream:
        def __init__(self, name: Any = "copying") -> None:
            self.name = name if isinstance(name, str) else "copying"

        def record_event(self) -> str:
            log.append(f"copied {next(copies)}")
            return log[-1]

        def wait_event(self, event: str) -> None:
            log.append(f"{self.name} waits for {event}")

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    current = [Stream("computing")]
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])

    def to(tensor: Tensor, _device: torch.device, *, non_blocking: bool) -> Tensor:
        assert non_blocking
        assert current[-1].name == "copying"
        return tensor

    kept: list[str] = []
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: kept.append(stream.name))
    for number, batch in enumerate(on_device(batches(log), torch.device("cuda"))):
        assert batch.images[0, 0, 0, 0] == number
        log.append(f"step {number}")
    assert log == [
        *("load 0", "copied 0"),
        *("load 1", "copied 1", "computing waits for copied 0", "step 0"),
        *("load 2", "copied 2", "computing waits for copied 1", "step 1"),
        *("computing waits for copied 2", "step 2"),
    ]
    assert kept == ["computing"] * 6, "images and targets"

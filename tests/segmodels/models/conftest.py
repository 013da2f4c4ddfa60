"""Tests of models compute with at most two threads."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads == 1 else min(threads, 2))
    yield
    torch.set_num_threads(threads)

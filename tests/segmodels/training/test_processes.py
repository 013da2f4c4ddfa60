"""What processes tell each other travels from CPU to CPU, so that no step waits for the work of a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from segmodels.training import processes


@pytest.mark.parametrize(("device", "group"), [("cpu", None), ("cuda", "gloo")])
def test_gpus_are_left_out_of_it(monkeypatch: pytest.MonkeyPatch, device: str, group: str | None) -> None:
    fabric: Any = SimpleNamespace(world_size=2, device=torch.device(device))
    made, used = [], []

    def new_group(backend: str) -> str:
        made.append(backend)
        return backend

    def all_reduce(values: Tensor, _operation: Any, group: Any) -> None:
        used.append(group)
        assert values.device.type == "cpu"

    def all_gather_object(values: list[Any], value: Any, group: Any) -> None:
        used.append(group)
        values[:] = [value, value]

    processes._gloo_beside.cache_clear()
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    for _ in range(2):
        assert processes.largest_of_all(fabric, True, 0.5) == [1.0, 0.5]
        assert processes.of_all(fabric, "own") == ["own", "own"]
    processes._gloo_beside.cache_clear()
    assert used == [group] * 4
    assert made == [group] * (group is not None), "made once"

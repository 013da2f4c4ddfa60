"""Sums of losses: those of float64 numbers added in order, without a word from the device until they are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segmodels.training.learner import Losses
from segmodels.training.means import LossSums, mean_losses


def losses(count: int) -> list[Losses]:
    values = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return [Losses(a, {"dice": b.requires_grad_(), "cross_entropy": a.bfloat16()}) for a, b in values]


@pytest.mark.parametrize("kept", [1, 3, 1000])
def test_they_are_those_of_float64_numbers_added_in_order(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossSums, "KEPT", kept)
    expected: dict[str, Tensor] = {}
    sums = LossSums()
    for number, batch in enumerate(losses(10)):
        if number == 4:
            sums = LossSums(sums.totals())  # as a resumed training does
        images = 16 - number
        sums.add(batch, images)
        for name, value in {"loss": batch.loss, **batch.terms}.items():
            assert value is not None
            value = value.detach().double() * images
            expected[name] = expected[name] + value if name in expected else value
    totals = sums.totals()
    assert totals.pop("images") == sum(16 - number for number in range(10))
    assert totals == {name: float(value) for name, value in expected.items()}
    assert sums.totals().pop("images") == 115, "asked for again"


def test_a_loss_that_nothing_has_is_left_out() -> None:
    sums = LossSums()
    sums.add(Losses(None, {}), 4)
    assert mean_losses("val", [sums.totals()]) == {}


def test_adding_runs_no_kernel() -> None:
    class Kernels(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(function.overloadpacket.__name__)
            return function(*args, **kwargs or {})

    seen: list[str] = []
    sums = LossSums()
    batches = losses(5)
    with Kernels():
        for batch in batches:
            sums.add(batch, 4)
    assert set(seen) == {"detach"}

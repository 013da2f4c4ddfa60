"""Whether numbers are finite."""

import math

import pytest
import torch

from segmodels.finite import all_finite
from segmodels.outputs import PixelOutput


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_number_that_is_not_finite_is_found_anywhere(value: float, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 5, 7).to(dtype)
    output = PixelOutput(torch.randn(2, 3), (logits,), {"further": {"part": torch.arange(3)}})
    assert all_finite(output)
    logits[1, 2, 4, 6] = value
    assert not all_finite(output)


def test_whole_numbers_and_nothing_are_finite() -> None:
    assert all_finite({"count": torch.tensor(3), "none": torch.empty(0, 4), "other": None})

"""Gradients computed with their values are those of autograd, and hold no intermediate tensor."""

import gc

import torch
from torch import Tensor

from segmodels.losses.early_gradients import with_gradients


def scalars(x: Tensor) -> tuple[Tensor, Tensor]:
    return (x.sigmoid() * x).sum(), x.exp().mean()


def test_values_and_gradients_are_autograds() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, -3.0)):
        expected, found = (
            sum(weight * value for weight, value in zip(weights, values, strict=True))
            for values in (scalars(x), with_gradients(scalars, x))
        )
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(total, x)[0] for total in (found, expected)))


def test_without_a_gradient_only_values_are_computed() -> None:
    x = torch.randn(3)
    values = with_gradients(scalars, x)
    assert not any(value.requires_grad for value in values)
    torch.testing.assert_close(values, scalars(x))


def test_what_the_function_computes_on_the_way_is_freed() -> None:
    kept: list[int] = []

    def large(x: Tensor) -> tuple[Tensor]:
        middle = x.repeat(1000).exp()
        middle.register_hook(lambda gradient: kept.append(len(gradient)))
        return (middle.log().mean(),)

    x = torch.zeros(2, requires_grad=True)
    (value,) = with_gradients(large, x)
    assert kept == [2000], "the gradient is there already"
    gc.collect()
    value.backward()
    assert kept == [2000]
    torch.testing.assert_close(x.grad, torch.full((2,), 0.5))

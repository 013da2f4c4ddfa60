"""Gradients computed with their values are those of autograd, and hold no intermediate tensor."""

import weakref

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
    def checked(x: Tensor) -> tuple[Tensor, Tensor]:
        assert not (torch.is_grad_enabled() and x.requires_grad)
        return scalars(x)

    x = torch.randn(3)
    torch.testing.assert_close(with_gradients(checked, x), scalars(x))
    with torch.no_grad():
        with_gradients(checked, x.requires_grad_())


def test_what_the_function_computes_on_the_way_is_freed() -> None:
    middle: list[weakref.ref[Tensor]] = []

    def large(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.repeat(1000).exp()  # saved for its gradient
        middle.append(weakref.ref(wide))
        return wide.mean(), wide.square().mean()

    x = torch.zeros(2, requires_grad=True)
    first, second = with_gradients(large, x)
    assert middle[0]() is None
    (first + second).backward()
    torch.testing.assert_close(x.grad, torch.full((2,), 1.5))
    plain = large(x)
    assert middle[1]() is not None, "autograd keeps it"
    del plain

"""A gradient computed with its value is autograd's, and holds no intermediate tensor."""

import weakref

import torch
from torch import Tensor

from segmodels.losses.early_gradients import with_gradient


def scalar(x: Tensor) -> Tensor:
    return (x.sigmoid() * x).sum() + x.exp().mean()


def test_value_and_gradient_are_autograds() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    expected, found = (-3.0 * value.square() for value in (scalar(x), with_gradient(scalar, x)))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (found, expected)))


def test_without_a_gradient_only_the_value_is_computed() -> None:
    def checked(x: Tensor) -> Tensor:
        assert not (torch.is_grad_enabled() and x.requires_grad)
        return scalar(x)

    x = torch.randn(3)
    torch.testing.assert_close(with_gradient(checked, x), scalar(x))
    with torch.no_grad():
        with_gradient(checked, x.requires_grad_())


def test_what_the_function_computes_on_the_way_is_freed() -> None:
    middle: list[weakref.ref[Tensor]] = []

    def large(x: Tensor) -> Tensor:
        wide = x.repeat(1000).exp()  # saved for its gradient
        middle.append(weakref.ref(wide))
        return wide.square().mean()

    x = torch.zeros(2, requires_grad=True)
    value = with_gradient(large, x)
    assert middle[0]() is None
    value.backward()
    torch.testing.assert_close(x.grad, torch.full((2,), 1.0))
    plain = large(x)
    assert middle[1]() is not None, "autograd keeps it"
    del plain

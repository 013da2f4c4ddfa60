"""Losses whose gradients are computed together with their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_gradients(function: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor) -> tuple[Tensor, ...]:
    """The scalars ``function(inputs)``, with gradients to ``inputs`` alone.

    What ``function`` computes on the way is freed before this returns. Autograd would keep it until the backward pass:
    of a loss at full resolution for each layer of a decoder, that is most of a training step's memory.
    """
    if not (torch.is_grad_enabled() and inputs.requires_grad):
        return function(inputs)
    return _WithGradients.apply(function, inputs)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            *others, last = values = function(leaf)
            gradients = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in others]
            ctx.save_for_backward(*gradients, *torch.autograd.grad(last, leaf))
        return tuple(value.detach() for value in values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, Tensor]:
        first, *others = zip(slopes, ctx.saved_tensors, strict=True)
        total = first[0] * first[1]
        for slope, gradient in others:
            total = total.addcmul(slope, gradient)
        return None, total

"""Losses whose gradient is computed together with their value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_gradient(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The scalar ``function(inputs)``, with a gradient to ``inputs`` alone.

    What ``function`` computes on the way is freed before this returns. Autograd would keep it until the backward pass:
    of a loss at full resolution for each layer of a decoder, that is most of a training step's memory.
    """
    if not (torch.is_grad_enabled() and inputs.requires_grad):
        return function(inputs)
    return _WithGradient.apply(function, inputs)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            value = function(leaf)
            ctx.save_for_backward(*torch.autograd.grad(value, leaf))
        return value.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        (gradient,) = ctx.saved_tensors
        return None, slope * gradient

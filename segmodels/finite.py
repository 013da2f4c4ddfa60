"""Whether numbers are finite: neither NaN nor infinite; and how large they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def all_finite(values: Any) -> Tensor:
    """Bool ``()``: whether every floating-point tensor of a pytree is finite throughout.

    The answer stays on the tensors' device, so that asking does not wait for the device.
    """
    return largest_magnitude(values).isfinite()


@torch.no_grad()
def largest_magnitude(values: Any) -> Tensor:
    """Float ``()``: the largest absolute value in the floating-point tensors of a pytree, 0 without any; NaN if one
    value is NaN. Stays on the tensors' device.
    """
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    ends = [torch.stack(torch.aminmax(leaf.detach())).float() for leaf in leaves if leaf.numel()]  # NaN is both
    return torch.cat(ends).abs().amax() if ends else torch.tensor(0.0)  # NaN is the largest

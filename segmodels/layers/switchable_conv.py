"""Switchable atrous convolution (DetectoRS, Qiao 2021, 2006.02334, section 4): two dilations of one kernel, mixed in
each place by a learned switch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.layers.deformable_conv import Pair, deformable_conv

WIDER = 3
"""Factor of the larger dilation."""

ADDED = re.compile(r"\.(weight_(gamma|beta|diff)|(switch|(pre|post)_context|offset_[sl])\.(weight|bias))$")
"""Keys that a plain convolution does not have."""


class AdaptivelyStandardisedConv2d(nn.Conv2d):
    """A convolution whose kernel is standardised in each output channel (Qiao 2019, 1903.10520), times
    ``weight_gamma``, plus ``weight_beta``: standard deviation and mean of the kernel that it starts with, so that it
    starts as the plain convolution.
    """

    weight_gamma: Tensor
    weight_beta: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            _pair(conv.padding),
            (conv.dilation[0], conv.dilation[1]),
            bias=conv.bias is not None,
        )
        self.weight = conv.weight
        self.bias = conv.bias
        spread, mean = spread_and_mean(conv.weight.detach())
        self.register_buffer("weight_gamma", spread)
        self.register_buffer("weight_beta", mean)

    def kernel(self) -> Tensor:
        """The standardised weight, ``(out_channels, in_channels, rows, columns)``."""
        spread, mean = spread_and_mean(self.weight)
        return (self.weight - mean) * (self.weight_gamma / spread) + self.weight_beta

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.kernel(), self.bias)


class SwitchableConv2d(AdaptivelyStandardisedConv2d):
    """The sum of a 3x3 convolution times the switch and of the same at three times the dilation, with ``weight_diff``
    added to the kernel, times 1 - switch. Before and after it, what the mean of the whole map says is added to the map
    (global context). The points of both kernels are moved by learned offsets.

    It starts as the convolution that it replaces: the switch is 1; difference, contexts and offsets are 0. The switch
    has no bounds. At the border the pool that it reads is the mean of the pixels inside, so that maps may be of any
    size.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        points = 2 * self.kernel_size[0] * self.kernel_size[1]
        self.weight_diff = nn.Parameter(torch.zeros_like(conv.weight))
        self.switch = nn.Conv2d(self.in_channels, 1, 1, self.stride)  # type: ignore[arg-type]  # a pair
        self.pre_context = nn.Conv2d(self.in_channels, self.in_channels, 1)
        self.post_context = nn.Conv2d(self.out_channels, self.out_channels, 1)
        self.offset_s = nn.Conv2d(self.in_channels, points, 3, self.stride, 1)  # type: ignore[arg-type]
        self.offset_l = nn.Conv2d(self.in_channels, points, 3, self.stride, 1)  # type: ignore[arg-type]
        for layer in (self.switch, self.pre_context, self.post_context, self.offset_s, self.offset_l):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, float(layer is self.switch))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_context(x.mean(dim=(2, 3), keepdim=True))
        around = functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
        switch, kernel = self.switch(around), self.kernel()
        near = self._convolved(x, self.offset_s(around), kernel, 1)
        far = self._convolved(x, self.offset_l(around), kernel + self.weight_diff, WIDER)
        mixed = switch * near + (1 - switch) * far
        return mixed + self.post_context(mixed.mean(dim=(2, 3), keepdim=True))

    def _convolved(self, x: Tensor, offsets: Tensor, kernel: Tensor, factor: int) -> Tensor:
        padding, dilation = _pair(self.padding), self.dilation
        wider = (factor * padding[0], factor * padding[1]), (factor * dilation[0], factor * dilation[1])
        return deformable_conv(x, offsets, kernel, (self.stride[0], self.stride[1]), *wider)


def make_switchable(module: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Replace, in place, every 3x3 convolution under one of the prefixes of names by a ``SwitchableConv2d``, and all
    others by a ``AdaptivelyStandardisedConv2d``. Outputs stay as they are.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Conv2d):
            switchable = layer.kernel_size == (3, 3) and name.startswith(prefixes)
            module.set_submodule(name, SwitchableConv2d(layer) if switchable else AdaptivelyStandardisedConv2d(layer))


def completed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network with plain convolutions, with those added that its switchable form has beside them: outputs
    stay as they are.

    Args:
        own: all tensors of the switchable form, as it starts.
    """
    added = {key: value for key, value in own.items() if ADDED.search(key)}
    for key, value in state.items():
        gamma, beta = (f"{key.removesuffix('.weight')}.weight_{part}" for part in ("gamma", "beta"))
        if gamma in added and value.shape == own[key].shape:
            added[gamma], added[beta] = spread_and_mean(value)
    return {**added, **state}


def spread_and_mean(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each output channel of a kernel ``(O, ...)``, ``(O, 1, ...)`` each."""
    channels = tuple(range(1, weight.dim()))
    mean = weight.mean(dim=channels, keepdim=True)  # far faster than torch.var_mean on a CPU
    return ((weight - mean).square().mean(dim=channels, keepdim=True) + 1e-10).sqrt(), mean


def _pair(padding: str | tuple[int, ...]) -> Pair:
    assert not isinstance(padding, str)
    return padding[0], padding[1]

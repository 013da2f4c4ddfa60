"""Attention to a few places around each pixel, on maps of several sizes (Deformable DETR, Zhu 2021, 2010.04159)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = Sequence[tuple[int, int]]
"""Height and width of each map."""


class DeformableAttention(nn.Module):
    """Each of N pixels says where it looks, ``points`` places in each map for every head, and how much each place
    counts (section 4.1, equation 3).

    The keys are those of the authors' release.
    """

    def __init__(self, channels: int, heads: int = 8, levels: int = 3, points: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.levels = levels
        self.points = points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self._initialise()

    def forward(self, query: Tensor, features: Tensor, centres: Tensor, sizes: Sizes) -> Tensor:
        """``(B, N, C)``.

        Args:
            query: ``(B, N, C)``, features with positions.
            features: pixels of all maps, one map after the other, ``(B, Σ h · w, C)``.
            centres: of the N pixels, ``(N, 2)``, x and y as shares of width and height.
        """
        value = self.value_proj(features)
        offsets = self.sampling_offsets(query).unflatten(2, (self.heads, self.levels, self.points, 2))
        weights = self.attention_weights(query).unflatten(2, (self.heads, -1)).softmax(dim=3)
        weights = weights.unflatten(3, (self.levels, self.points))
        lengths = [height * width for height, width in sizes]
        total: Tensor | None = None
        for level, (own, size) in enumerate(zip(value.split(lengths, dim=1), sizes, strict=True)):
            seen = self._look(own, size, offsets[:, :, :, level], weights[:, :, :, level], centres)
            total = seen if total is None else total + seen
        assert total is not None
        attended = torch.cat(total.unflatten(0, (self.heads, -1)).unbind(), dim=1).transpose(1, 2)
        return self.output_proj(attended.to(value.dtype))

    def _look(self, value: Tensor, size: tuple[int, int], offsets: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
        """What the heads see in one map, ``(heads * B, C / heads, N)``, in float32.

        Args:
            value: pixels of the map, ``(B, h * w, C)``.
            offsets: in pixels of the map, ``(B, N, heads, points, 2)``.
            weights: ``(B, N, heads, points)``.
        """
        height, width = size
        maps = _by_head(value.float().transpose(1, 2).unflatten(1, (self.heads, -1)), 1).unflatten(2, (height, width))
        shares = torch.stack([offsets[..., 0].float() / width, offsets[..., 1].float() / height], dim=-1)
        places = _by_head(centres[:, None, None] + shares, 2)  # (heads * B, N, points, 2)
        seen = functional.grid_sample(maps, 2 * places - 1, align_corners=False)
        return (seen * _by_head(weights.float(), 2)[:, None]).sum(dim=3)

    def _initialise(self) -> None:
        """At first each head looks into a direction of its own, its points 1, 2, ... pixels away (appendix A.4)."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None] * directions[:, None, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(steps.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)


def _by_head(x: Tensor, axis: int) -> Tensor:
    """Tensors ``(B, ...)`` with an axis of heads as ``(heads * B, ...)`` without it.

    Not by ``flatten``, whose strides an exported program states as a minimum of terms of all maps' sizes: reading many
    of those takes ``torch.export.load`` minutes.
    """
    return torch.cat(x.unbind(axis))


def pixel_centres(sizes: Sizes, device: torch.device) -> Tensor:
    """Centres of the pixels of all maps, ``(Σ h · w, 2)``: x and y as shares of width and height."""
    centres = []
    for height, width in sizes:
        y, x = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in (height, width))
        grid = torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], dim=2)
        centres.append(grid.flatten(0, 1))
    return torch.cat(centres)

"""Positions of pixels as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(features: Tensor) -> Tensor:
    """Of the pixels of a map ``(B, C, h, w)``: sines and cosines of the row, then of the column, ``(h * w, C)`` float32
    (Carion 2020, 2005.12872, appendix A.4).

    Rows and columns count from 1 and are divided by their number, times 2 π, so that maps of different sizes have the
    same positions at the same places of the image. C is a multiple of 4.
    """
    (_, channels, height, width), device = features.shape, features.device
    places = torch.arange(channels // 4, dtype=torch.float32, device=device)
    frequencies = 10000 ** (-4 * places / channels)

    def waves(length: int) -> Tensor:
        line = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * 2 * math.pi
        angles = line[:, None] * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)  # (length, channels / 2)

    rows = waves(height)[:, None].expand(-1, width, -1)
    columns = waves(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)

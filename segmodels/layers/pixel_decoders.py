"""Maps of an encoder to an embedding of every pixel at stride 4, which masks are read from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ConvNormAct, group_norm, relu, resize
from segmodels.layers.deformable_attention import DeformableAttention, pixel_centres
from segmodels.layers.positions import sine_positions

LEVELS = 3  # maps at strides 32, 16 and 8, which deformable attention reads


class PyramidPixelDecoder(nn.Module):
    """A feature pyramid with group norm: maps at strides 4 to 32 to an embedding of every pixel at stride 4
    (MaskFormer, Cheng 2021, 2107.06278, section 4.1).
    """

    def __init__(self, in_channels: Sequence[int], channels: int, mask_channels: int) -> None:
        super().__init__()
        *finer, coarsest = in_channels
        self.stem = ConvNormAct(coarsest, channels, norm=group_norm, activation=relu)
        self.laterals = nn.ModuleList(
            ConvNormAct(width, channels, 1, norm=group_norm, activation=None) for width in finer[::-1]
        )
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels, norm=group_norm, activation=relu) for _ in finer)
        self.mask_features = nn.Conv2d(channels, mask_channels, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.stem(maps[-1])
        for lateral, output, own in zip(self.laterals, self.outputs, maps[-2::-1], strict=True):
            x = output(lateral(own) + resize(x, own.shape[-2:], "nearest"))
        return self.mask_features(x)


class DeformablePixelDecoder(nn.Module):
    """Deformable attention over the maps at strides 32, 16 and 8, and a step of a feature pyramid to stride 4
    (Mask2Former, Cheng 2022, 2112.01527, section 3.2.1, "multi-scale deformable attention").
    """

    def __init__(self, in_channels: Sequence[int], channels: int, mask_channels: int, layers: int, hidden: int) -> None:
        super().__init__()
        finest, *others = in_channels
        self.input_proj = nn.ModuleList(
            ConvNormAct(width, channels, 1, bias=True, norm=group_norm, activation=None) for width in others[::-1]
        )
        self.level_embed = nn.Parameter(torch.empty(LEVELS, channels).normal_())
        self.layers = nn.ModuleList(DeformableLayer(channels, hidden) for _ in range(layers))
        self.lateral = ConvNormAct(finest, channels, 1, norm=group_norm, activation=None)
        self.output = ConvNormAct(channels, channels, norm=group_norm, activation=relu)
        self.mask_features = nn.Conv2d(channels, mask_channels, 1)
        for module in self.input_proj.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps at strides 4 to 32 to embeddings of the pixels at stride 4 and to the maps at strides 32, 16 and 8."""
        finest, *others = maps
        projected = [project(x) for project, x in zip(self.input_proj, others[::-1], strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in projected]
        places = torch.cat(positions(projected, self.level_embed))
        centres = pixel_centres(sizes, finest.device)
        x = torch.cat([each.flatten(2).transpose(1, 2) for each in projected], dim=1)
        for layer in self.layers:
            x = layer(x, places, centres, sizes)
        parts = x.split([height * width for height, width in sizes], dim=1)
        levels = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        fine = self.output(self.lateral(finest) + resize(levels[-1], finest.shape[-2:]))
        return self.mask_features(fine), levels


class DeformableLayer(nn.Module):
    """Deformable attention and an MLP, each with a shortcut, normalised after the sum: ``(B, N, C)``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(channels, levels=LEVELS)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, places: Tensor, centres: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        x = self.norm1(x + self.self_attn(x + places, x, centres, sizes))
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))


def positions(maps: Sequence[Tensor], of_levels: Tensor) -> list[Tensor]:
    """Positions in each map plus the vector of its level, ``(h * w, C)``."""
    sines = [sine_positions(x) for x in maps]
    return [sine + level for sine, level in zip(sines, of_levels, strict=True)]

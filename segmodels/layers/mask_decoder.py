"""The mask decoder of Segment Anything (Kirillov 2023, 2304.02643): tokens of prompts and the map of an image attend to
each other. The keys are those of the authors' release.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.layers.attention import attend
from segmodels.layers.blocks import ChannelNorm


class MaskDecoder(nn.Module):
    """Four masks for each prompt, the first for several prompts together, and an estimate of each one's IoU (section 3,
    "Mask decoder").

    Args:
        channels: of tokens and maps.
        heads: of all attention.
        hidden: channels inside the MLP of the transformer.
    """

    MASKS: ClassVar[int] = 4

    def __init__(self, channels: int, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(channels, heads, hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(self.MASKS, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, 2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            TokenMLP(channels, channels, channels // 8) for _ in range(self.MASKS)
        )
        self.iou_prediction_head = TokenMLP(channels, channels, self.MASKS)

    def forward(
        self, map: Tensor, places: Tensor, prompts: Tensor, known: Tensor, masks: int = MASKS
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(N, masks, 4 h, 4 w)`` and estimated IoU ``(N, masks)`` of the first ``masks`` masks.

        Args:
            map: ``(N, C, h, w)``.
            places: ``(h * w, C)``.
            prompts: tokens ``(N, T, C)``, of which the object has those that are ``known`` ``(N, T)``.
        """
        size = map.shape[2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(prompts), -1, -1)
        known = torch.cat([torch.ones_like(own[..., 0], dtype=torch.bool), known], dim=1)
        tokens, cells = self.transformer(
            torch.cat([own, prompts], dim=1), map.flatten(2).transpose(1, 2), places, known
        )
        fine = self.output_upscaling(cells.transpose(1, 2).unflatten(2, size))
        filters = torch.stack(
            [layer(tokens[:, 1 + i]) for i, layer in enumerate(self.output_hypernetworks_mlps[:masks])], dim=1
        )
        logits = (filters @ fine.flatten(2)).unflatten(2, fine.shape[2:])
        return logits, self.iou_prediction_head(tokens[:, 0])[:, :masks]


class TwoWayTransformer(nn.Module):
    """Tokens ``(N, T, C)`` and maps ``(N, h * w, C)`` that have attended to each other."""

    def __init__(self, channels: int, heads: int, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(channels, heads, hidden, first=i == 0) for i in range(layers))
        self.final_attn_token_to_image = DownAttention(channels, channels // 2, heads)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, map: Tensor, places: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """``places``: positions of the map's cells; ``known``: bool ``(N, T)``, the tokens that others see."""
        prompts, known = tokens, known[:, None, None]
        for layer in self.layers:
            tokens, map = layer(tokens, map, prompts, places, known)
        seen = self.final_attn_token_to_image(tokens + prompts, map + places, map)
        return self.norm_final_attn(tokens + seen), map


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the map, pass an MLP, and the map attends to them (appendix A, figure 14).

    Args:
        first: the tokens have no positions yet, and no shortcut.
    """

    def __init__(self, channels: int, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = DownAttention(channels, channels, heads)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.cross_attn_token_to_image = DownAttention(channels, channels // 2, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = SamMLP(channels, hidden, nn.ReLU)
        self.norm3 = nn.LayerNorm(channels, eps=1e-6)
        self.norm4 = nn.LayerNorm(channels, eps=1e-6)
        self.cross_attn_image_to_token = DownAttention(channels, channels // 2, heads)

    def forward(
        self, tokens: Tensor, map: Tensor, prompts: Tensor, places: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``TwoWayTransformer``; ``prompts`` are the tokens as they were before the first block."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, known)
        else:
            placed = tokens + prompts
            tokens = tokens + self.self_attn(placed, placed, tokens, known)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, map + places, map))
        tokens = self.norm3(tokens + self.mlp(tokens))
        map = self.norm4(map + self.cross_attn_image_to_token(map + places, tokens + prompts, tokens, known))
        return tokens, map


class DownAttention(nn.Module):
    """Multi-head attention in fewer channels: ``(B, N, C)`` to ``(B, M, C)``."""

    def __init__(self, channels: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out_proj(attend(self.q_proj(query), self.k_proj(key), self.v_proj(value), self.heads, mask))


class SamMLP(nn.Module):
    """Linear, an activation, linear; the authors' keys."""

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, hidden)
        self.lin2 = nn.Linear(hidden, channels)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class TokenMLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, channels: int, hidden: int, out: int, layers: int = 3) -> None:
        super().__init__()
        sizes = [channels, *[hidden] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)

"""A transformer decoder whose queries look at the image and at each other (DETR, Carion 2020, 2005.12872)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.layers.names import Names


class Attention(nn.Module):
    """Multi-head attention ``(B, Q, C)`` to ``(B, N, C)``; parameters in the order of ``nn.MultiheadAttention``.

    Args:
        dropout: share of the attention's weights that training leaves out.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``: False where a query does not see a key; of a shape that broadcasts to ``(B, heads, Q, N)``."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        projected = (functional.linear(*ends) for ends in zip((query, key, value), weights, biases, strict=True))
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in projected)
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class QueryLayer(nn.Module):
    """Attention of the queries to each other, to the image's features, and an MLP, each with a shortcut, normalised
    after the sum.

    Args:
        hidden: width of the MLP.
        image_first: the queries look at the image before they look at each other (Mask2Former, Cheng 2022, 2112.01527,
            section 3.2.2).
    """

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float = 0.0, image_first: bool = False) -> None:
        super().__init__()
        self.image_first = image_first
        self.self_attn = Attention(channels, heads, dropout)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn = Attention(channels, heads, dropout)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for attention in (self.self_attn, self.cross_attn):
            nn.init.zeros_(attention.in_proj.bias)
            nn.init.zeros_(attention.out_proj.bias)

    def forward(
        self, queries: Tensor, identities: Tensor, features: Tensor, places: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """New queries ``(B, Q, C)``.

        Args:
            queries: ``(B, Q, C)``.
            identities: learned positions of the queries, ``(Q, C)``.
            features, places: of the image, ``(B, N, C)``, and the positions of its N places, ``(N, C)``.
            mask: False where a query does not see a place, ``(B, 1, Q, N)``.
        """
        if self.image_first:
            queries = self._look_at_image(queries, identities, features, places, mask)
            queries = self._look_at_queries(queries, identities)
        else:
            queries = self._look_at_queries(queries, identities)
            queries = self._look_at_image(queries, identities, features, places, mask)
        hidden = self.dropout(torch.relu(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))

    def _look_at_queries(self, queries: Tensor, identities: Tensor) -> Tensor:
        named = queries + identities
        return self.norm1(queries + self.dropout(self.self_attn(named, named, queries)))

    def _look_at_image(
        self, queries: Tensor, identities: Tensor, features: Tensor, places: Tensor, mask: Tensor | None
    ) -> Tensor:
        seen = self.cross_attn(queries + identities, features + places, features, mask)
        return self.norm2(queries + self.dropout(seen))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers from each width to the next with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


TRANSFORMERS: Names = (
    (r"\.(self_attn|cross_attn)\.o_proj\.", r".\1.out_proj."),
    (r"\.encoder_attn\.o_proj\.", ".cross_attn.out_proj."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.cross_attn\.in_proj_(weight|bias)$", r".cross_attn.in_proj.\1"),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.(encoder|cross)_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.(mlp\.)?fc([12])\.", r".linear\2."),
)
"""transformers' names of a ``QueryLayer``."""


def joined_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of layers ``q_proj``, ``k_proj`` and ``v_proj`` as those of one layer ``in_proj``."""
    joined = dict(state)
    for key in [key for key in state if ".q_proj." in key]:
        parts = [key.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in joined for part in parts):
            joined[key.replace(".q_proj.", ".in_proj.")] = torch.cat([joined.pop(part) for part in parts])
    return joined

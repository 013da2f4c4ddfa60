"""The vision transformer of Segment Anything (Kirillov et al.: Segment Anything, ICCV 2023, arXiv 2304.02643): most
blocks attend inside windows, few over the whole image (Li 2022, 2203.16527), with decomposed relative positions (Li
2022, 2112.01526), and a neck makes one map.

The keys are those of the authors' release; its files and those of transformers load, positions of any grid included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_layer_decay, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.encoders.vit import resample_positions
from segmodels.errors import InputError
from segmodels.layers.blocks import (
    ChannelNorm,
    DropPath,
    check_images,
    check_positive,
    drop_path_rates,
    initialise_transformer,
    resize,
)
from segmodels.layers.mask_decoder import SamMLP
from segmodels.layers.names import Names, renamed
from segmodels.layers.padding import linear_of_padded, zeros_to_multiple

TRANSFORMERS: Names = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"^(blocks\.\d+)\.layer_norm([12])\.", r"\1.norm\2."),
    (r"^neck\.conv1\.", "neck.0."),
    (r"^neck\.layer_norm1\.", "neck.1."),
    (r"^neck\.conv2\.", "neck.2."),
    (r"^neck\.layer_norm2\.", "neck.3."),
)


class RelativeAttention(nn.Module):
    """Self-attention of maps ``(B, h, w, C)`` whose scores have a term for the offset of rows and one for that of
    columns, each the product of the query with a learned vector (equation 3 of 2112.01526).

    Args:
        side: height and width of the maps whose offsets are learned; others' are interpolated.
    """

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """``window``: side of the windows that see themselves alone; 0: everything sees everything."""
        return self.proj(in_windows(self.qkv, x, window, self.attended) if window else self.attended(self.qkv(x)))

    def attended(self, projected: Tensor) -> Tensor:
        """Of queries, keys and values side by side, ``(B, h, w, 3 C)`` to ``(B, h, w, C)``."""
        height, width = projected.shape[1:3]
        query, key, value = projected.unflatten(3, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5)  # (B, heads, h, w, d)
        rows = torch.einsum("bnhwd,hkd->bnhwk", query, offsets(self.rel_pos_h, height))
        columns = torch.einsum("bnhwd,wkd->bnhwk", query, offsets(self.rel_pos_w, width))
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        query, key, value = (each.flatten(2, 3) for each in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).flatten(2).unflatten(1, (height, width))


def offsets(table: Tensor, size: int) -> Tensor:
    """The learned vector for the offset of each place to each other on an axis, ``(size, size, d)``, of a table
    ``(2 n - 1, d)``.
    """
    places = torch.arange(size, device=table.device)
    return resample_offsets(table, 2 * size - 1)[places[:, None] - places + size - 1]


def resample_offsets(table: Tensor, length: int) -> Tensor:
    """Vectors of offsets ``(n, d)`` for another number of them, by linear interpolation."""
    if table.shape[0] == length:
        return table
    return resize(table.T[None, :, None], (1, length))[0, :, 0].T


def in_windows(qkv: nn.Linear, x: Tensor, window: int, attended: Callable[[Tensor], Tensor]) -> Tensor:
    """Maps ``(B, h, w, C)`` whose windows, ``(B * n, window, window, 3 C)`` of the projected map, go through
    ``attended``.
    """
    batch, height, width = x.shape[:3]
    x = linear_of_padded(qkv, x, window)
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)  # (B, rows, columns, w, w, 3 C)
    grid = x.shape[1:3]
    x = attended(x.flatten(0, 2)).unflatten(0, (batch, *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]


class SamBlock(nn.Module):
    """Attention and an MLP, each on normalised tokens, with shortcuts: maps ``(B, h, w, C)`` of any size.

    Args:
        window: side of the windows of attention, to whole ones of which maps are padded with 0; 0 for the whole map.
        side: of the maps that the positions are learned on.
    """

    def __init__(self, channels: int, heads: int, window: int, side: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = RelativeAttention(channels, heads, window or side)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = SamMLP(channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), self.window))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SamViT(Encoder):
    """One map at stride 16, ``(B, out_channels, h, w)``. Any input size, padded with 0 at the right and at the bottom.

    Args:
        width, depth, heads: channels, blocks, heads of each block's attention.
        global_blocks: indices, from 0, of the blocks that attend over the whole image.
        image_size: side of the square images whose positions are learned; others' are interpolated.
        window: side of the windows of the other blocks, patches.
        out_channels: of the map.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
        layer_decay: each layer learns at this share of the next one's rate (0.8 in appendix A); 1: all alike.
        checkpointing: see ``Encoder``.
    """

    first_layer = "patch_embed.proj.weight"

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        global_blocks: Sequence[int],
        in_channels: int = 3,
        output_stride: int = 16,
        image_size: int = 1024,
        window: int = 14,
        out_channels: int = 256,
        drop_path: float = 0.0,
        layer_decay: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_positive("out_channels of SamViT", out_channels)
        check_layer_decay(layer_decay)
        check_output_stride("SamViT", output_stride, (16, 32))  # 32 is what models ask for that take any encoder
        if image_size < 16 or image_size % 16 or window < 1:
            raise InputError(
                f"image_size of SamViT is {image_size} and window {window}, expected a multiple of 16 pixels and at"
                " least 1 patch"
            )
        self.in_channels = in_channels
        self.channels = (out_channels,)
        self.strides = (16,)
        self.image_size = image_size
        self.layer_decay = layer_decay
        self.checkpointing = checkpointing
        side = image_size // 16
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, 16, 16)})
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, width))
        rates = drop_path_rates(drop_path, depth)
        self.blocks = nn.ModuleList(
            SamBlock(width, heads, 0 if i in global_blocks else window, side, rate) for i, rate in enumerate(rates)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, out_channels, 1, bias=False),
            ChannelNorm(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            ChannelNorm(out_channels),
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        initialise_transformer(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        x = self.patch_embed["proj"](zeros_to_multiple(images, 16)).permute(0, 2, 3, 1)
        x = x + self.positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = self.run(block, x)
        return [self.neck(x.permute(0, 3, 1, 2))]

    def positions(self, height: int, width: int) -> Tensor:
        """``(1, height, width, C)``."""
        side = self.pos_embed.shape[1]
        # asked while exporting, the size would tie the graph to one answer
        if not torch.compiler.is_exporting() and (height, width) == (side, side):
            return self.pos_embed
        return resample_positions(self.pos_embed.flatten(1, 2), (height, width)).unflatten(1, (height, width))

    def stages(self) -> list[list[nn.Module]]:
        """One: the whole encoder makes its one map."""
        return [[self]]

    def translate(self, key: str) -> str:
        return renamed(key, TRANSFORMERS)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Positions that were learned on images or windows of another size are resampled."""
        own = self.state_dict()
        state = dict(state)
        for key, value in state.items():
            if key not in own or value.dim() != own[key].dim() or value.shape == own[key].shape:
                continue
            if key == "pos_embed" and value.shape[3] == own[key].shape[3]:
                size = own[key].shape[1:3]
                state[key] = resample_positions(value.flatten(1, 2), size).unflatten(1, size)
            elif key.endswith(("rel_pos_h", "rel_pos_w")) and value.shape[1] == own[key].shape[1]:
                state[key] = resample_offsets(value, own[key].shape[0])
        return super().adapt(state)

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_decay == 1:
            return []
        layers = [[self.pos_embed, *self.patch_embed.parameters()], *(block.parameters() for block in self.blocks)]
        return [
            {"params": list(layer), "lr_factor": self.layer_decay ** (len(layers) - i)}
            for i, layer in enumerate(layers)
        ]

    def no_weight_decay(self) -> set[str]:
        return {key for key, _ in self.named_parameters() if key.endswith(("pos_embed", "rel_pos_h", "rel_pos_w"))}


@register_encoder("sam_vit_tiny")
def sam_vit_tiny(in_channels: int = 3, output_stride: int = 16, **options: Any) -> SamViT:
    """A small ViT of Segment Anything, 6 blocks of 192 channels; ``options`` are those of ``SamViT``."""
    small = {"image_size": 128, "window": 4, "out_channels": 128}
    return SamViT(192, 6, 3, (2, 5), in_channels, output_stride, **{**small, **options})


@register_encoder("sam_vit_base")
def sam_vit_base(in_channels: int = 3, output_stride: int = 16, **options: Any) -> SamViT:
    """ViT-B of Segment Anything; ``options`` are those of ``SamViT``."""
    return SamViT(768, 12, 12, (2, 5, 8, 11), in_channels, output_stride, **options)


@register_encoder("sam_vit_large")
def sam_vit_large(in_channels: int = 3, output_stride: int = 16, **options: Any) -> SamViT:
    """ViT-L of Segment Anything; ``options`` are those of ``SamViT``."""
    return SamViT(1024, 24, 16, (5, 11, 17, 23), in_channels, output_stride, **options)


@register_encoder("sam_vit_huge")
def sam_vit_huge(in_channels: int = 3, output_stride: int = 16, **options: Any) -> SamViT:
    """ViT-H of Segment Anything; ``options`` are those of ``SamViT``."""
    return SamViT(1280, 32, 16, (7, 15, 23, 31), in_channels, output_stride, **options)

"""Swin transformer (Liu et al.: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021,
arXiv 2103.14030).

The keys are those of the authors' release for dense prediction; their ImageNet checkpoints and those of timm,
transformers and OpenMMLab load, tables of other windows included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.encoders.vit import MLP, joined_attention
from segmodels.errors import InputError
from segmodels.layers.blocks import DropPath, check_images, drop_path_rates, initialise_transformer
from segmodels.layers.names import Names, renamed
from segmodels.layers.padding import zeros_to_multiple

TRANSFORMERS: Names = (
    (r"^(swin|model|embeddings|encoder)\.", ""),
    (r"^(embeddings|encoder)\.", ""),
    (r"^patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^norm\.(weight|bias)$", r"patch_embed.norm.\1"),
    (r"\.(layernorm_before)\.", ".norm1."),
    (r"\.(layernorm_after)\.", ".norm2."),
    (r"\.attention\.(self\.)?relative_position_bias\.", ".attention."),
    (r"\.attention\.(self\.)?relative_position", ".attn.relative_position"),
    (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(layers\.\d\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    *((rf"^hidden_states_norms\.(stage{i + 1}|{i})\.", f"norm{i}.") for i in range(4)),
)

OPENMMLAB: Names = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^(layers\.\d\.downsample)\.", r"\1.unfolded."),
)
"""Names of mmsegmentation's and mmdetection's ``SwinTransformer``, whose merging has another order of channels."""


class WindowAttention(nn.Module):
    """Attention inside windows, with a learned bias for each offset between two tokens (section 3.2): windows ``(B, n,
    w * w, C)``.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """``mask``: ``(n, 1, w * w, w * w)``, -inf where two tokens do not see each other."""
        query, key, value = self.qkv(windows).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.unflatten(0, (tokens, tokens)).permute(2, 0, 1)
        scores = bias if mask is None else bias + mask
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores.to(query.dtype))
        return self.proj(attended.transpose(2, 3).flatten(3))


def relative_index(window: int) -> Tensor:
    """Place in the table of the offset from each token of a window to each other, ``(w ** 4,)``."""
    line = torch.arange(window, device="cpu")
    offsets = line[:, None] - line + window - 1
    rows = offsets[:, None, :, None] * (2 * window - 1)
    return (rows + offsets[None, :, None, :]).flatten()


class Block(nn.Module):
    """Attention inside windows, which every second block shifts by half a window, and an MLP, each on normalised
    tokens, with shortcuts: maps ``(B, h, w, C)`` of any size, padded to whole windows with 0.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = self.window
        x = zeros_to_multiple(x, window, first=1)
        padded = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = self.mask(padded[0], padded[1], x)
        x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)  # (B, rows, columns, w, w, C)
        grid = x.shape[1:3]
        windows = self.attn(x.flatten(3, 4).flatten(1, 2), mask)
        x = windows.unflatten(2, (window, window)).unflatten(1, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def mask(self, height: int, width: int, like: Tensor) -> Tensor:
        """Tokens that the shift brought into one window from opposite sides of the map do not see each other: ``(n, 1,
        w * w, w * w)``.
        """
        window, shift = self.window, self.shift

        def regions(size: int) -> Tensor:
            line = torch.arange(size, device=like.device)
            return (line >= size - window).long() + (line >= size - shift).long()

        regions_of = regions(height)[:, None] * 3 + regions(width)
        tiles = (
            regions_of.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)
        )
        hidden = tiles[:, :, None] != tiles[:, None]
        return torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, float("-inf"))[:, None]


class PatchMerging(nn.Module):
    """Groups of 2 x 2 tokens side by side, normalised, through a linear layer to twice the channels: ``(B, h, w, C)``
    to ``(B, ceil(h / 2), ceil(w / 2), 2 C)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = zeros_to_multiple(x, 2, first=1)
        groups = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(groups, dim=3)))


class Stage(nn.Module):
    """Blocks, and in ``downsample`` the merging that follows them, which the last stage lacks."""

    def __init__(self, channels: int, heads: int, window: int, rates: Sequence[float], last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, window // 2 if i % 2 else 0, rate) for i, rate in enumerate(rates)
        )
        self.downsample = None if last else PatchMerging(channels)


class Swin(Encoder):
    """Maps: after each of the four stages (strides 4, 8, 16, 32), layer-normalised over channels. Any input size.

    Args:
        width: channels of the first stage; each further one has twice as many.
        depths, heads: of each stage.
        window: side of the windows.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
        checkpointing: see ``Encoder``.
    """

    classifier = ("norm.", "head.", "classifier.", "layernorm.", "pooler.")
    first_layer = "patch_embed.proj.weight"

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        in_channels: int = 3,
        output_stride: int = 32,
        window: int = 7,
        drop_path: float = 0.3,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_output_stride("Swin", output_stride, (32,))
        if window < 1:
            raise InputError(f"window of Swin is {window}, expected at least 1 token")
        self.in_channels = in_channels
        self.channels = tuple(width * 2**i for i in range(4))
        self.strides = (4, 8, 16, 32)
        self.checkpointing = checkpointing
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, 4, 4), "norm": nn.LayerNorm(width)})
        rates = drop_path_rates(drop_path, sum(depths))
        self.layers = nn.ModuleList()
        for i, (channels, depth, number) in enumerate(zip(self.channels, depths, heads, strict=True)):
            self.layers.append(Stage(channels, number, window, rates[:depth], last=i == 3))
            rates = rates[depth:]
        for i, channels in enumerate(self.channels):
            self.add_module(f"norm{i}", nn.LayerNorm(channels))
        initialise_transformer(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        x = self.patch_embed["proj"](zeros_to_multiple(images, 4)).permute(0, 2, 3, 1)
        x = self.patch_embed["norm"](x)
        maps = []
        for i, stage in enumerate(self._layers()):
            for block in stage.blocks:
                x = self.run(block, x)
            maps.append(self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        """The merging before a stage belongs to that stage, as the patches do to the first."""
        starts = [self.patch_embed, *(stage.downsample for stage in self._layers())]
        norms = [self.get_submodule(f"norm{i}") for i in range(4)]
        groups = zip(starts, self._layers(), norms, strict=False)
        return [[start, stage.blocks, norm] for start, stage, norm in groups if start is not None]

    def _layers(self) -> list[Stage]:
        return cast("list[Stage]", list(self.layers))

    def translate(self, key: str) -> str:
        if re.match(r"^(swin|embeddings|encoder|hidden_states_norms)\.", key):
            return renamed(key, TRANSFORMERS)
        return renamed(key, OPENMMLAB) if re.match(r"^(stages|patch_embed\.projection)\.", key) else key

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Separate queries, keys and values are joined; tables of relative positions are resampled to this window."""
        state = {
            key: value for key, value in state.items() if not key.endswith(("relative_position_index", "attn_mask"))
        }
        state = joined_attention(state)
        for key in [key for key in state if ".unfolded." in key]:
            state[key.replace(".unfolded.", ".")] = folded(state.pop(key))
        if any(key.startswith("layers.3.downsample.") for key in state):  # timm: the merging opens a stage
            for i in (1, 2, 3):
                before = f"layers.{i - 1}.downsample."
                state = {key.replace(f"layers.{i}.downsample.", before): value for key, value in state.items()}
        own = self.state_dict()
        for key, value in state.items():
            if key.endswith("relative_position_bias_table") and key in own and value.shape != own[key].shape:
                state[key] = resample_table(value, own[key].shape[0])
        # an ImageNet checkpoint has no norms of maps
        norms = {key: tensor for key, tensor in own.items() if re.match(r"^norm\d\.", key)}
        return super().adapt(norms | state)

    def no_weight_decay(self) -> set[str]:
        return {key for key, _ in self.named_parameters() if key.endswith("relative_position_bias_table")}


def folded(merging: Tensor) -> Tensor:
    """A tensor of OpenMMLab's patch merging, ``(..., 4 C)``, in the order of ``PatchMerging``: there the four tokens of
    a group, row by row, stand beside each other for each channel.
    """
    return merging.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)


def resample_table(table: Tensor, length: int) -> Tensor:
    """Biases ``((2 w - 1) ** 2, heads)`` for windows of another size, by bicubic interpolation."""
    sides = [round(size**0.5) for size in (table.shape[0], length)]
    grid = table.T.unflatten(1, (sides[0], sides[0]))[None]
    return functional.interpolate(grid, (sides[1], sides[1]), mode="bicubic", align_corners=False)[0].flatten(1).T


@register_encoder("swin_tiny")
def swin_tiny(in_channels: int = 3, output_stride: int = 32, **options: Any) -> Swin:
    """Swin-T; ``options`` are those of ``Swin``."""
    return Swin(96, (2, 2, 6, 2), (3, 6, 12, 24), in_channels, output_stride, **options)


@register_encoder("swin_small")
def swin_small(in_channels: int = 3, output_stride: int = 32, **options: Any) -> Swin:
    """Swin-S; ``options`` are those of ``Swin``."""
    return Swin(96, (2, 2, 18, 2), (3, 6, 12, 24), in_channels, output_stride, **options)


@register_encoder("swin_base")
def swin_base(in_channels: int = 3, output_stride: int = 32, **options: Any) -> Swin:
    """Swin-B; ``options`` are those of ``Swin``; pretrained at 384 pixels it has ``window`` 12."""
    return Swin(128, (2, 2, 18, 2), (4, 8, 16, 32), in_channels, output_stride, **options)


@register_encoder("swin_large")
def swin_large(in_channels: int = 3, output_stride: int = 32, **options: Any) -> Swin:
    """Swin-L; ``options`` are those of ``Swin``; pretrained at 384 pixels it has ``window`` 12."""
    return Swin(192, (2, 2, 18, 2), (6, 12, 24, 48), in_channels, output_stride, **options)

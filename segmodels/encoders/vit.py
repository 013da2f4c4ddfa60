"""Vision transformer (Dosovitskiy et al.: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale,
ICLR 2021, arXiv 2010.11929).

The tensors' names are timm's behind ``embed.``; checkpoints of timm (ViT, DeiT, AugReg), of transformers, torchvision
and mmsegmentation and Google's ``.npz`` files load, position embeddings of any grid included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_layer_decay, check_output_stride
from segmodels.encoders.flax_names import GOOGLE
from segmodels.encoders.registry import register_encoder
from segmodels.errors import InputError
from segmodels.layers.attention import attend
from segmodels.layers.blocks import DropPath, check_images, check_positive, drop_path_rates, initialise_transformer
from segmodels.layers.names import Names, renamed
from segmodels.layers.padding import zeros_to_multiple

PUBLISHED: Names = (
    *GOOGLE,
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),  # torchvision
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"\.ln_(1|2)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^vit\.", ""),
    (r"^encoder\.layer\.", "blocks."),  # transformers 4
    (r"^layers\.", "blocks."),  # transformers 5, mmsegmentation
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.(layernorm_before|ln1)\.", ".norm1."),
    (r"\.(layernorm_after|ln2)\.", ".norm2."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attn\.attn\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.(intermediate\.dense|ffn\.layers\.0\.0)\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.(output\.dense|ffn\.layers\.1)\.", r"\1.mlp.fc2."),
    (r"^(layernorm|ln1)\.", "norm."),
    (r"^(cls_token|pos_embed|patch_embed\.proj\..*)$", r"embed.\1"),
    (r"^embed\.patch_embed\.", "embed."),
)
"""Names of Google, torchvision, timm, transformers (versions 4 and 5) and mmsegmentation."""


class PatchEmbed(nn.Module):
    """Patches of the image through a linear layer, a learned position added to each: images ``(B, in_channels, H, W)``
    to tokens ``(B, N, C)`` and the grid's size ``(ceil(H / patch), ceil(W / patch))``.

    Images are padded with 0, the mean colour, at the right and at the bottom. Positions are learned on a square grid
    and resampled to the image's by bicubic interpolation.

    Args:
        grid: height and width of the learned positions' grid.
        class_token: a token of its own, with a position of its own, comes before those of the patches.
        bias: of the linear layer.
    """

    def __init__(
        self, in_channels: int, channels: int, patch: int, grid: int, class_token: bool, bias: bool = True
    ) -> None:
        super().__init__()
        self.patch = patch
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, grid**2 + class_token, channels).normal_(std=0.02))
        self.proj = nn.Conv2d(in_channels, channels, patch, patch, bias=bias)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(zeros_to_multiple(images, self.patch))
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is None:
            return x + self.positions(size), size
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([first.expand(x.shape[0], -1, -1), x + self.positions(size)], dim=1), size

    def positions(self, size: tuple[int, int]) -> Tensor:
        """``(1, h * w, C)``, without the class token's."""
        learned = self.pos_embed if self.cls_token is None else self.pos_embed[:, 1:]
        # asked while exporting, the size would tie the graph to one answer
        if not torch.compiler.is_exporting() and size == (self.grid, self.grid):
            return learned
        return resample_positions(learned, size)


def resample_positions(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Position embeddings ``(1, g * g, C)`` of a square grid for one of another size: ``(1, h * w, C)``."""
    side = round(positions.shape[1] ** 0.5)
    grid = positions.transpose(1, 2).unflatten(2, (side, side))
    return functional.interpolate(grid, tuple(size), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def joined_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of layers ``attn.q``, ``attn.k`` and ``attn.v`` as those of one layer ``attn.qkv``."""
    joined = dict(state)
    for key in [key for key in state if ".attn.q." in key]:
        parts = [key.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(part in joined for part in parts):
            joined[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([joined.pop(part) for part in parts])
    return joined


class Attention(nn.Module):
    """Multi-head self-attention of tokens ``(B, N, C)``; timm's keys."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=2)
        return self.proj(attend(query, key, value, self.heads))


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each on normalised tokens, with shortcuts (equations 2 and 3)."""

    def __init__(self, channels: int, heads: int, drop_path: float = 0.0, ratio: int = 4, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attn = Attention(channels, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = MLP(channels, ratio * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(Encoder):
    """Maps: the tokens of the patches after some of the blocks, all at stride 16, ``(B, width, h, w)``. Any input size.

    Args:
        width, depth, heads: channels, blocks, heads of each block's attention.
        patch: side of a patch, the stride of the maps.
        image_size: side of the square images whose positions are learned; others' are interpolated.
        class_token: attention has a class token, which belongs to no map.
        out_blocks: after which blocks, counted from 1, the maps are taken; None: after each quarter of them.
        patch_bias: the patches' linear layer has a bias; without one, that of given weights is added to the positions.
        final_norm: the map after the last block is layer-normalised.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
        layer_decay: each layer learns at this share of the next one's rate (BEiT, 2106.08254); 1: all alike.
        checkpointing: see ``Encoder``.
    """

    classifier = ("head.", "heads.", "pre_logits.", "fc_norm.", "classifier.", "pooler.", "head_dist.", "dist_token")
    first_layer = "embed.proj.weight"

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        in_channels: int = 3,
        output_stride: int = 16,
        patch: int = 16,
        image_size: int = 224,
        class_token: bool = True,
        out_blocks: Sequence[int] | None = None,
        patch_bias: bool = True,
        final_norm: bool = True,
        drop_path: float = 0.0,
        layer_decay: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_positive("patch of ViT", patch)
        check_layer_decay(layer_decay)
        check_output_stride("ViT", output_stride, (patch, 32))  # 32 is what models ask for that take any encoder
        self.out_blocks = tuple(out_blocks or sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)}))
        rising = list(self.out_blocks) == sorted(set(self.out_blocks))
        if not rising or self.out_blocks[0] < 1 or self.out_blocks[-1] > depth or image_size < patch:
            raise InputError(
                f"out_blocks of ViT is {list(self.out_blocks)} and image_size {image_size}, expected rising numbers"
                f" from 1 to {depth} for the blocks and at least {patch} pixels"
            )
        self.in_channels = in_channels
        self.channels = (width,) * len(self.out_blocks)
        self.strides = (patch,) * len(self.out_blocks)
        self.layer_decay = layer_decay
        self.checkpointing = checkpointing
        self.embed = PatchEmbed(in_channels, width, patch, image_size // patch, class_token, patch_bias)
        rates = drop_path_rates(drop_path, depth)
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6) if final_norm else None
        initialise_transformer(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        x, size = self.embed(images)
        extra = int(self.embed.cls_token is not None)
        maps = []
        for i, block in enumerate(self.blocks, start=1):
            x = self.run(block, x)
            if i in self.out_blocks:
                tokens = self.norm(x) if self.norm is not None and i == len(self.blocks) else x
                if (
                    extra
                ):  # a copy: whether the rest is contiguous depends on the batch, which would tie an exported graph
                    tokens = tokens[:, extra:].clone(memory_format=torch.contiguous_format)
                maps.append(tokens.transpose(1, 2).unflatten(2, size))
        return maps

    def stages(self) -> list[list[nn.Module]]:
        starts = (0, *self.out_blocks)
        groups: list[list[nn.Module]] = [
            list(self.blocks[start:stop]) for start, stop in zip(starts, self.out_blocks, strict=False)
        ]
        groups[0] = [self.embed, *groups[0]]
        groups[-1] += [*self.blocks[self.out_blocks[-1] :], *([self.norm] if self.norm is not None else [])]
        return groups

    def translate(self, key: str) -> str:
        return key if key.startswith("embed.") else renamed(key, PUBLISHED)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Separate queries, keys and values are joined, position embeddings resampled; those of a class token that the
        encoder does not have are left out.
        """
        state = joined_attention(state)
        extra = int(self.embed.cls_token is not None)
        given = state.get("embed.pos_embed")
        if given is not None and given.shape != self.embed.pos_embed.shape:
            first = given.shape[1] - int(given.shape[1] ** 0.5) ** 2  # tokens before the patches: none or one
            resampled = resample_positions(given[:, first:], (self.embed.grid, self.embed.grid))
            state["embed.pos_embed"] = torch.cat([given[:, : min(first, extra)], resampled], dim=1)
        if not extra:
            state.pop("embed.cls_token", None)
        if self.embed.proj.bias is None and "embed.proj.bias" in state and given is not None:
            positions = state["embed.pos_embed"].clone()
            positions[:, extra:] += state.pop("embed.proj.bias")
            state["embed.pos_embed"] = positions
        if self.norm is None:
            state = {key: value for key, value in state.items() if not key.startswith("norm.")}
        return super().adapt(state)

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_decay == 1:
            return []
        layers = [self.embed, *self.blocks]
        return [
            {"params": list(layer.parameters()), "lr_factor": self.layer_decay ** (len(layers) - i)}
            for i, layer in enumerate(layers)
        ]

    def no_weight_decay(self) -> set[str]:
        return {"embed.pos_embed"} | ({"embed.cls_token"} if self.embed.cls_token is not None else set())


@register_encoder("vit_tiny")
def vit_tiny(in_channels: int = 3, output_stride: int = 16, **options: Any) -> ViT:
    """ViT-Ti/16; ``options`` are those of ``ViT``."""
    return ViT(192, 12, 3, in_channels, output_stride, **options)


@register_encoder("vit_small")
def vit_small(in_channels: int = 3, output_stride: int = 16, **options: Any) -> ViT:
    """ViT-S/16; ``options`` are those of ``ViT``."""
    return ViT(384, 12, 6, in_channels, output_stride, **options)


@register_encoder("vit_base")
def vit_base(in_channels: int = 3, output_stride: int = 16, **options: Any) -> ViT:
    """ViT-B/16; ``options`` are those of ``ViT``."""
    return ViT(768, 12, 12, in_channels, output_stride, **options)


@register_encoder("vit_large")
def vit_large(in_channels: int = 3, output_stride: int = 16, **options: Any) -> ViT:
    """ViT-L/16; ``options`` are those of ``ViT``."""
    return ViT(1024, 24, 16, in_channels, output_stride, **options)


@register_encoder("vit_huge")
def vit_huge(in_channels: int = 3, output_stride: int = 16, **options: Any) -> ViT:
    """ViT-H/16; ``options`` are those of ``ViT``; ``patch`` 14 is the paper's."""
    return ViT(1280, 32, 16, in_channels, output_stride, **options)

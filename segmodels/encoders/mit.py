"""Mix Transformer, the body of SegFormer (Xie et al.: SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers, NeurIPS 2021, arXiv 2105.15203, section 3.1).

The keys are those of the authors' release; checkpoints of transformers and of OpenMMLab load too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.registry import register_encoder
from segmodels.errors import InputError
from segmodels.layers.attention import attend
from segmodels.layers.blocks import (
    DropPath,
    check_images,
    drop_path_rates,
    initialise_convolutions,
    initialise_transformer,
)
from segmodels.layers.names import Names, renamed

Size = tuple[int, int]
TRANSFORMERS: Names = (
    (r"^(segformer\.)?(encoder\.)?", ""),
    *(
        (rf"^{stage}\.", f"{ours}{i + 1}.")
        for i in range(4)
        for stage, ours in (
            *((rf"patch_embeddings\.{i}", "patch_embed"), (rf"block\.{i}", "block"), (rf"layer_norm\.{i}", "norm")),
            *((rf"stages\.{i}\.patch_embeddings", "patch_embed"), (rf"stages\.{i}\.blocks", "block")),
            (rf"stages\.{i}\.layer_norm", "norm"),
        )
    ),
    (r"^(patch_embed\d)\.layer_norm\.", r"\1.norm."),
    (r"\.(layer_norm_1|layernorm_before)\.", ".norm1."),
    (r"\.(layer_norm_2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.", ".attn.sr."),
    (r"\.attention\.(self|sequence_reduction)\.layer_norm\.", ".attn.norm."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)
"""transformers' names of versions 4 (the published checkpoints) and 5 (a model's own state_dict)."""

OPENMMLAB: Names = (
    *(
        (rf"^layers\.{i}\.{place}\.", f"{ours}{i + 1}.")
        for i in range(4)
        for place, ours in enumerate(("patch_embed", "block", "norm"))
    ),
    (r"^(patch_embed\d)\.projection\.", r"\1.proj."),
    (r"\.attn\.attn\.in_proj_(weight|bias)$", r".attn.in_proj.\1"),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.dwconv.dwconv."),
    (r"\.ffn\.layers\.4\.", ".mlp.fc2."),
)
"""Names of mmsegmentation's ``MixVisionTransformer``, whose linear layers of the Mix-FFN are 1x1 convolutions."""


LEAST = 29
"""Height and width of the smallest images, pixels."""


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values are the map reduced by a strided convolution (section 3.1, "efficient
    self-attention"): tokens ``(B, h * w, C)`` of a map of size (h, w).
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels) if reduction > 1 else None

    def forward(self, x: Tensor, size: Size) -> Tensor:
        reduced = x
        if self.sr is not None and self.norm is not None:
            reduced = self.norm(to_tokens(self.sr(to_map(x, size))))
        key, value = self.kv(reduced).chunk(2, dim=2)
        return self.proj(attend(self.q(x), key, value, self.heads))


class DepthwiseConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return to_tokens(self.dwconv(to_map(x, size)))


class MixFFN(nn.Module):
    """Linear, depthwise 3x3 convolution (which tells positions apart), GELU, linear."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels * ratio)
        self.dwconv = DepthwiseConv(channels * ratio)
        self.fc2 = nn.Linear(channels * ratio, channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return self.fc2(functional.gelu(self.dwconv(self.fc1(x), size)))


class Block(nn.Module):
    """Attention and Mix-FFN, each on normalised tokens, with shortcuts."""

    def __init__(self, channels: int, heads: int, reduction: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = EfficientAttention(channels, heads, reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MixFFN(channels, ratio)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class OverlapPatchEmbed(nn.Module):
    """A strided convolution whose windows overlap, and layer norm: map to tokens and the new map's size."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class MiT(Encoder):
    """Maps: after each of the four stages (strides 4, 8, 16, 32), layer-normalised over channels. Any input size from
    29 x 29 pixels.

    Args:
        widths, depths: channels and blocks of each stage.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
        checkpointing: see ``Encoder``.
    """

    classifier = ("head.", "classifier.", "decode_head.")
    first_layer = "patch_embed1.proj.weight"

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        in_channels: int = 3,
        output_stride: int = 32,
        drop_path: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_output_stride("MiT", output_stride, (32,))
        self.in_channels = in_channels
        self.channels = tuple(widths)
        self.strides = (4, 8, 16, 32)
        self.checkpointing = checkpointing
        rates = drop_path_rates(drop_path, sum(depths))
        channels = in_channels
        for i, (width, depth, heads, reduction) in enumerate(
            zip(widths, depths, (1, 2, 5, 8), (8, 4, 2, 1), strict=True), start=1
        ):
            self.add_module(f"patch_embed{i}", OverlapPatchEmbed(channels, width, *((7, 4) if i == 1 else (3, 2))))
            blocks = (Block(width, heads, reduction, 4, rates.pop(0)) for _ in range(depth))
            self.add_module(f"block{i}", nn.ModuleList(blocks))
            self.add_module(f"norm{i}", nn.LayerNorm(width, eps=1e-6))
            channels = width
        initialise_transformer(self)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        height, width = images.shape[-2:]
        # asked while exporting, the size would tie the graph to large ones
        if not torch.compiler.is_exporting() and min(height, width) < LEAST:
            raise InputError(
                f"images are {height} x {width} pixels, expected at least {LEAST} x {LEAST}, whose map at stride 4 the"
                " attention of MiT reduces by 8: enlarge or pad them"
            )
        maps, x = [], images
        for embed, blocks, norm in self.stages():
            tokens, size = embed(x)
            for block in blocks.children():
                tokens = self.run(block, tokens, size)
            x = to_map(norm(tokens), size)
            maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        return [[self.get_submodule(f"{part}{i}") for part in ("patch_embed", "block", "norm")] for i in (1, 2, 3, 4)]

    def translate(self, key: str) -> str:
        """Names of transformers and OpenMMLab; ``adapt`` brings their layers into this encoder's form."""
        return renamed(key, (*TRANSFORMERS, *OPENMMLAB))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys and values are one layer, queries another: transformers has three, OpenMMLab one."""
        adapted = dict(state)
        for key, tensor in state.items():
            if ".attn.k." in key and (value := key.replace(".attn.k.", ".attn.v.")) in state:
                adapted[key.replace(".attn.k.", ".attn.kv.")] = torch.cat([adapted.pop(key), adapted.pop(value)])
            elif ".attn.in_proj." in key:
                query, *others = adapted.pop(key).chunk(3)
                adapted[key.replace(".in_proj.", ".q.")] = query
                adapted[key.replace(".in_proj.", ".kv.")] = torch.cat(others)
            elif ".mlp.fc" in key and tensor.dim() == 4:
                adapted[key] = tensor.flatten(1)
        return super().adapt(adapted)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """``(B, h * w, C)`` to ``(B, C, h, w)``."""
    return tokens.transpose(1, 2).unflatten(2, size)


def to_tokens(features: Tensor) -> Tensor:
    """``(B, C, h, w)`` to ``(B, h * w, C)``."""
    return features.flatten(2).transpose(1, 2)


@register_encoder("mit_b0")
def mit_b0(in_channels: int = 3, output_stride: int = 32, **options: Any) -> MiT:
    """MiT-B0; ``options`` are those of ``MiT``."""
    return MiT((32, 64, 160, 256), (2, 2, 2, 2), in_channels, output_stride, **options)


@register_encoder("mit_b1")
def mit_b1(in_channels: int = 3, output_stride: int = 32, **options: Any) -> MiT:
    """MiT-B1; ``options`` are those of ``MiT``."""
    return MiT((64, 128, 320, 512), (2, 2, 2, 2), in_channels, output_stride, **options)


@register_encoder("mit_b2")
def mit_b2(in_channels: int = 3, output_stride: int = 32, **options: Any) -> MiT:
    """MiT-B2; ``options`` are those of ``MiT``."""
    return MiT((64, 128, 320, 512), (3, 4, 6, 3), in_channels, output_stride, **options)


@register_encoder("mit_b3")
def mit_b3(in_channels: int = 3, output_stride: int = 32, **options: Any) -> MiT:
    """MiT-B3; ``options`` are those of ``MiT``."""
    return MiT((64, 128, 320, 512), (3, 4, 18, 3), in_channels, output_stride, **options)


@register_encoder("mit_b4")
def mit_b4(in_channels: int = 3, output_stride: int = 32, **options: Any) -> MiT:
    """MiT-B4; ``options`` are those of ``MiT``."""
    return MiT((64, 128, 320, 512), (3, 8, 27, 3), in_channels, output_stride, **options)


@register_encoder("mit_b5")
def mit_b5(in_channels: int = 3, output_stride: int = 32, **options: Any) -> MiT:
    """MiT-B5; ``options`` are those of ``MiT``."""
    return MiT((64, 128, 320, 512), (3, 6, 40, 3), in_channels, output_stride, **options)

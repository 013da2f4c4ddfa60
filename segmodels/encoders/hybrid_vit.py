"""R50-ViT: a ResNet whose map at stride 16 a vision transformer reads in place of patches (Dosovitskiy et al.: An Image
is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929, "hybrid architecture"), as TransUNet uses it.

The ResNet is "V2" of Big Transfer (Kolesnikov et al., ECCV 2020, arXiv 1912.11370): group norm, and convolutions whose
weights are standardised (Qiao et al. 2019, arXiv 1903.10520).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder, check_output_stride
from segmodels.encoders.flax_names import GOOGLE
from segmodels.encoders.registry import register_encoder
from segmodels.encoders.vit import Block, PatchEmbed, joined_attention, resample_positions
from segmodels.errors import InputError
from segmodels.layers.blocks import check_images, check_positive, initialise_transformer
from segmodels.layers.names import Names, renamed
from segmodels.layers.padding import zeros_to_multiple

PUBLISHED: Names = (
    *GOOGLE,
    (r"^(conv|gn)_root\.", r"root.\1."),
    (r"^(block\d\.unit\d+)\.conv_proj\.", r"\1.downsample."),
    (r"^embeddings\.hybrid_model\.", ""),
    (r"^body\.(block\d)\.unit(\d)\.", r"\1.unit\2."),
    (r"^embeddings\.patch_embeddings\.", "embed.proj."),
    (r"^embeddings\.position_embeddings$", "embed.pos_embed"),
    (r"^encoder\.layer\.(\d+)\.attention_norm\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.ffn_norm\.", r"blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.ffn\.", r"blocks.\1.mlp."),
    (r"^encoder\.layer\.(\d+)\.attn\.(q|k|v)(uery|ey|alue)\.", r"blocks.\1.attn.\2."),
    (r"^encoder\.layer\.(\d+)\.attn\.out\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.encoder_norm\.", "norm."),
)
"""Names of Google's ``.npz`` files, and of TransUNet's release behind ``transformer.``."""


class StandardisedConv2d(nn.Conv2d):
    """A convolution without bias whose weights have mean 0 and variance 1 for each output channel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / (variance + 1e-5).sqrt()
        return functional.conv2d(x, weight, None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides) and 1x1 standardised convolutions, group norm after each, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        middle = channels // 4
        self.gn1 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv1 = StandardisedConv2d(in_channels, middle, 1)
        self.gn2 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv2 = StandardisedConv2d(middle, middle, 3, stride)
        self.gn3 = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv3 = StandardisedConv2d(middle, channels, 1)
        self.downsample: nn.Module = nn.Identity()
        self.gn_proj: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.downsample = StandardisedConv2d(in_channels, channels, 1, stride)
            self.gn_proj = nn.GroupNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.gn1(self.conv1(x)))
        y = torch.relu(self.gn2(self.conv2(y)))
        return torch.relu(self.gn_proj(self.downsample(x)) + self.gn3(self.conv3(y)))


class HybridViT(Encoder):
    """Maps: of the ResNet's first convolution (stride 2) and of its first two stages (4, 8), and the transformer's
    tokens (16). Any input size: padded with 0, the mean colour, to a multiple of 16.

    As in TransUNet's release the max-pool has no padding, so that the map at stride 4 is a row and a column short; they
    are filled with 0.

    Args:
        width, depth, heads: channels, blocks, heads of the transformer.
        resnet_depths: blocks of the ResNet's three stages.
        image_size: side of the square images whose positions are learned; others' are interpolated.
        checkpointing: see ``Encoder``.
    """

    classifier = ("head.", "pre_logits.")
    first_layer = "root.conv.weight"

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        in_channels: int = 3,
        output_stride: int = 16,
        resnet_depths: Sequence[int] = (3, 4, 9),
        image_size: int = 224,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_output_stride("R50-ViT", output_stride, (16, 32))  # 32 is what models ask for that take any encoder
        check_positive("depth of R50-ViT", depth)
        check_positive("resnet_depths of R50-ViT", *resnet_depths)
        if len(resnet_depths) != 3 or image_size < 16:
            raise InputError(
                f"resnet_depths of R50-ViT is {list(resnet_depths)} and image_size {image_size}, expected 3 numbers,"
                " and at least 16 pixels"
            )
        self.in_channels = in_channels
        self.channels = (64, 256, 512, width)
        self.strides = (2, 4, 8, 16)
        self.checkpointing = checkpointing
        self.root = nn.ModuleDict(
            {"conv": StandardisedConv2d(in_channels, 64, 7, 2), "gn": nn.GroupNorm(32, 64, eps=1e-6)}
        )
        channels = 64
        for i, blocks in enumerate(resnet_depths):
            stage = nn.Sequential()
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                stage.add_module(f"unit{j + 1}", Bottleneck(channels, 256 * 2**i, stride))
                channels = 256 * 2**i
            self.add_module(f"block{i + 1}", stage)
        self.embed = PatchEmbed(channels, width, 1, image_size // 16, class_token=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialise_transformer(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        height, width = images.shape[-2:]
        # asked while exporting, the size would tie the graph to large ones
        if not torch.compiler.is_exporting() and max(height, width) <= 16:
            raise InputError(
                f"images are {height} x {width} pixels, expected a side above 16, as the group norms of the hybrid ViT"
                " need two places at stride 16: enlarge or pad them"
            )
        images = zeros_to_multiple(images, 16)
        half = torch.relu(self.root["gn"](self.root["conv"](images)))
        quarter = self.get_submodule("block1")(functional.max_pool2d(half, 3, 2))
        eighth = self.get_submodule("block2")(quarter)
        tokens, size = self.embed(self.get_submodule("block3")(eighth))
        for block in self.blocks:
            tokens = self.run(block, tokens)
        last = self.norm(tokens).transpose(1, 2).unflatten(2, size)
        return [half, functional.pad(quarter, (0, 1, 0, 1)), eighth, last]

    def stages(self) -> list[list[nn.Module]]:
        first, second, third = (self.get_submodule(f"block{i}") for i in (1, 2, 3))
        return [[self.root], [first], [second], [third, self.embed, self.blocks, self.norm]]

    def translate(self, key: str) -> str:
        return renamed(key, PUBLISHED)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Queries, keys and values are joined, position embeddings resampled; the class token is left out."""
        state = joined_attention(state)
        given = state.get("embed.pos_embed")
        if state.pop("embed.cls_token", None) is not None and given is not None:
            state["embed.pos_embed"] = given = given[:, 1:]
        if given is not None and given.shape != self.embed.pos_embed.shape:
            state["embed.pos_embed"] = resample_positions(given, (self.embed.grid, self.embed.grid))
        return super().adapt(state)

    def no_weight_decay(self) -> set[str]:
        return {"embed.pos_embed"}


@register_encoder("r50_vit_base")
def r50_vit_base(in_channels: int = 3, output_stride: int = 16, depth: int = 12, **options: Any) -> HybridViT:
    """ResNet-50 and ViT-B of ``depth`` blocks; ``options`` are those of ``HybridViT``."""
    return HybridViT(768, depth, 12, in_channels, output_stride, **options)


@register_encoder("r50_vit_large")
def r50_vit_large(in_channels: int = 3, output_stride: int = 16, depth: int = 24, **options: Any) -> HybridViT:
    """ResNet-50 and ViT-L of ``depth`` blocks; ``options`` are those of ``HybridViT``."""
    return HybridViT(1024, depth, 16, in_channels, output_stride, **options)

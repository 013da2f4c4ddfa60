"""Segmenter (Strudel et al.: Segmenter: Transformer for Semantic Segmentation, ICCV 2021, arXiv 2105.05633)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.encoders.vit import PUBLISHED as VIT_NAMES
from segmodels.encoders.vit import Block
from segmodels.errors import InputError
from segmodels.layers.blocks import initialise_transformer, resize
from segmodels.layers.names import Names, renamed
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Strudel et al.: Segmenter: Transformer for Semantic Segmentation, ICCV 2021, arXiv 2105.05633"


class LinearDecoder(nn.Module):
    """The classes of every patch by a linear layer (section 3.2, "linear"): ``(B, C, h, w)`` to ``(B, K, h, w)``."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features)

    def classifiers(self) -> list[nn.Module]:
        return [self.head]


class MaskTransformer(nn.Module):
    """An embedding for each class joins the patches in two more blocks; the class masks are its scalar products with
    the patches, both of length 1 (section 3.2, "mask transformer"): ``(B, C, h, w)`` to ``(B, K, h, w)``.
    """

    def __init__(self, channels: int, num_classes: int, heads: int, layers: int = 2) -> None:
        super().__init__()
        if channels % heads:
            raise InputError(
                f"the encoder's last map has {channels} channels, expected a multiple of {heads}, the heads of"
                " Segmenter's mask transformer: choose another encoder or another variant of segmenter"
            )
        self.proj_dec = nn.Linear(channels, channels)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, channels).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(channels, heads, eps=1e-5) for _ in range(layers))
        self.proj_patch = nn.Linear(channels, channels, bias=False)
        self.proj_classes = nn.Linear(channels, channels, bias=False)
        self.decoder_norm = nn.LayerNorm(channels)
        self.mask_norm = nn.LayerNorm(num_classes)
        initialise_transformer(self)
        for layer in (self.proj_patch, self.proj_classes):
            nn.init.normal_(layer.weight, std=channels**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        classes = self.cls_emb.shape[1]
        x = self.proj_dec(features.flatten(2).transpose(1, 2))
        x = torch.cat([x, self.cls_emb.expand(x.shape[0], -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        # contiguous: exported on a view of some tokens, the layer would refuse a batch of one
        patches = functional.normalize(self.proj_patch(x[:, :-classes].contiguous()), dim=2)
        embeddings = functional.normalize(self.proj_classes(x[:, -classes:]), dim=2)
        masks = self.mask_norm(patches @ embeddings.transpose(1, 2))
        return masks.transpose(1, 2).unflatten(2, features.shape[-2:])

    def classifiers(self) -> list[nn.Module]:
        return [self.mask_norm]


class Segmenter(Model):
    """A vision transformer, a decoder on its patches, bilinear upsampling to the input. Any input size.

    Predict large images by a sliding window, as the paper does (512 pixels every 480; L: 640 every 608).
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.dec_proj\.", "decoder.proj_dec."),
        (r"^decode_head\.(patch|classes)_proj\.", r"decoder.proj_\1."),
        (r"^decode_head\.conv_seg\.", "decoder.head."),
        (r"^decode_head\.", "decoder."),
    )

    def __init__(self, encoder: Encoder, decoder: LinearDecoder | MaskTransformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        return PixelOutput(resize(self.decoder(self.encoder(images)[-1]), images.shape[-2:]))

    def classifiers(self) -> list[nn.Module]:
        return self.decoder.classifiers()

    def translate(self, key: str) -> str:
        """The decoder's blocks are named as the encoder's."""
        if key.startswith("decode_head.layers."):
            return f"decoder.{renamed(key.removeprefix('decode_head.'), VIT_NAMES)}"
        return super().translate(key)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | ({"decoder.cls_emb"} if isinstance(self.decoder, MaskTransformer) else set())


RECIPE: dict[str, Any] = {
    "num_classes": 150,
    "optimizer": "sgd",
    "lr": 0.001,
    "weight_decay": 0.0,
    "schedule": "polynomial",
    "batch_size": 8,
}  # section 4.2, ADE20K
OPTIONS = {"drop_path": 0.1, "image_size": 512, "patch_bias": False}  # as mmsegmentation's
LARGE = {**OPTIONS, "image_size": 640}


@register_model(
    "segmenter_t_mask",
    Card(
        PAPER,
        2021,
        parameters=6_713_196,
        gmac=12.64,
        source="mmsegmentation 1.2.2 segmenter_vit-t_mask, counted",
        result="ADE20K val: mIoU 39.99 (mmsegmentation)",
        **RECIPE,
    ),
)
def segmenter_t_mask(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_tiny", options=OPTIONS)
) -> Segmenter:
    """Segmenter-T with the mask transformer."""
    return _mask(num_classes, in_channels, body, heads=3)


@register_model(
    "segmenter_s_mask",
    Card(
        PAPER,
        2021,
        parameters=26_033_580,
        gmac=38.4,
        source="mmsegmentation 1.2.2 segmenter_vit-s_mask, counted",
        result="ADE20K val: mIoU 46.19 (mmsegmentation)",
        **RECIPE,
    ),
)
def segmenter_s_mask(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_small", options=OPTIONS)
) -> Segmenter:
    """Segmenter-S with the mask transformer."""
    return _mask(num_classes, in_channels, body, heads=6)


@register_model(
    "segmenter_b_mask",
    Card(
        PAPER,
        2021,
        parameters=102_496_812,
        gmac=129.29,
        source="mmsegmentation 1.2.2 segmenter_vit-b_mask, counted",
        result="ADE20K val: mIoU 49.60 (mmsegmentation)",
        **RECIPE,
    ),
)
def segmenter_b_mask(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_base", options=OPTIONS)
) -> Segmenter:
    """Segmenter-B with the mask transformer."""
    return _mask(num_classes, in_channels, body, heads=12)


@register_model(
    "segmenter_l_mask",
    Card(
        PAPER,
        2021,
        parameters=333_233_452,
        size=(640, 640),
        gmac=671.07,
        source="mmsegmentation 1.2.2 segmenter_vit-l_mask, counted",
        result="ADE20K val: mIoU 52.16 (mmsegmentation), 51.8 (authors' release)",
        **RECIPE,
    ),
)
def segmenter_l_mask(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_large", options=LARGE)
) -> Segmenter:
    """Segmenter-L with the mask transformer."""
    return _mask(num_classes, in_channels, body, heads=16)


@register_model(
    "segmenter_s_linear",
    Card(
        PAPER,
        2021,
        parameters=22_040_982,
        gmac=31.81,
        source="mmsegmentation 1.2.2 segmenter_vit-s_fcn, counted",
        result="ADE20K val: mIoU 45.75 (mmsegmentation)",
        **RECIPE,
    ),
)
def segmenter_s_linear(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_small", options=OPTIONS)
) -> Segmenter:
    """Segmenter-S with the linear decoder."""
    encoder = body.build(in_channels)
    return Segmenter(encoder, LinearDecoder(encoder.channels[-1], num_classes))


def _mask(num_classes: int, in_channels: int, body: Body, heads: int) -> Segmenter:
    encoder = body.build(in_channels)
    return Segmenter(encoder, MaskTransformer(encoder.channels[-1], num_classes, heads))

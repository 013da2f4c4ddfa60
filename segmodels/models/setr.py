"""SETR (Zheng et al.: Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, CVPR
2021, arXiv 2012.15840): a ViT, and three decoders on its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.names import Names
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Zheng et al.: Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, CVPR"
    " 2021, arXiv 2012.15840"
)


class UpHead(nn.Module):
    """Normalised tokens through convolutions, each followed by an enlargement by ``scale``, and the classes (section
    3.3, "naive" and "progressive upsampling").
    """

    def __init__(self, channels: int, num_classes: int, convs: int, kernel_size: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up_convs = nn.ModuleList(ConvNormAct(256 if i else channels, 256, kernel_size) for i in range(convs))
        self.conv_seg = nn.Conv2d(256, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.movedim(1, 3)).movedim(3, 1)
        for conv in self.up_convs:
            x = conv(x)
            x = resize(x, [self.scale * size for size in x.shape[-2:]])
        return self.conv_seg(x)


class SETR(Model):
    """A decoder on the last of the ViT's maps; in training one more on each map before it (loss weight 0.4). Any input
    size.
    """

    published: ClassVar[Names] = (
        (r"^(decode_head|auxiliary_head\.\d)\.up_convs\.(\d)\.0\.", r"\1.up_convs.\2."),
        (r"^decode_head\.", "head."),
        (r"^auxiliary_head\.", "auxiliary_heads."),
    )

    def __init__(self, encoder: Encoder, head: nn.Module, auxiliary_heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.auxiliary_heads = nn.ModuleList(auxiliary_heads)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        *maps, last = self.encoder(images)
        size = images.shape[-2:]
        logits = resize(self.head(last), size)
        if not self.training or not self.auxiliary_heads:
            return PixelOutput(logits)
        auxiliary = (head(x) for head, x in zip(self.auxiliary_heads, maps, strict=True))
        return PixelOutput(logits, tuple(resize(x, size) for x in auxiliary))

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.head, *self.auxiliary_heads)


class SETRMLA(Model):
    """Multi-level feature aggregation (section 3.3): four maps of the ViT, normalised and projected, each added to the
    deeper ones, through convolutions, enlarged, side by side, classes. In training the projected maps have classes of
    their own (loss weight 0.4). Any input size.
    """

    published: ClassVar[Names] = (
        (r"^neck\.norm\.(\d)\.", r"norms.\1."),
        (r"^neck\.mla\.channel_proj\.", "projections."),
        (r"^neck\.mla\.feat_extract\.", "aggregated."),
        (r"^decode_head\.up_convs\.", "streams."),
        (r"^decode_head\.conv_seg\.", "conv_seg."),
        (r"^auxiliary_head\.(\d)\.conv_seg\.", r"auxiliary_heads.\1."),
    )

    def __init__(self, encoder: Encoder, num_classes: int, auxiliary: bool = True) -> None:
        super().__init__()
        if len(encoder.channels) != 4:
            raise InputError(
                f"the encoder of SETR-MLA has {len(encoder.channels)} maps, expected 4: give it four out_blocks"
            )
        if len(set(encoder.strides)) > 1:
            raise InputError(
                f"the encoder of SETR-MLA has maps at the strides {', '.join(map(str, encoder.strides))}, expected four"
                " of one size: choose a ViT, such as vit_base, with four out_blocks"
            )
        self.encoder = encoder
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in encoder.channels)
        self.projections = nn.ModuleList(ConvNormAct(width, 256, 1) for width in encoder.channels)
        self.aggregated = nn.ModuleList(ConvNormAct(256, 256) for _ in encoder.channels)
        self.streams = nn.ModuleList(
            nn.Sequential(ConvNormAct(256, 128), ConvNormAct(128, 128)) for _ in encoder.channels
        )
        self.conv_seg = nn.Conv2d(4 * 128, num_classes, 1)
        self.auxiliary_heads = nn.ModuleList(nn.Conv2d(256, num_classes, 1) for _ in range(4 if auxiliary else 0))

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.aggregate(self.encoder(images))
        size = images.shape[-2:]
        finer = [4 * side for side in maps[0].shape[-2:]]
        streams = [resize(stream(x), finer) for stream, x in zip(self.streams, maps, strict=True)]
        logits = resize(self.conv_seg(torch.cat(streams, dim=1)), size)
        if not self.training or not self.auxiliary_heads:
            return PixelOutput(logits)
        auxiliary = (head(x) for head, x in zip(self.auxiliary_heads, maps, strict=True))
        return PixelOutput(logits, tuple(resize(x, size) for x in auxiliary))

    def aggregate(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``(B, 256, h, w)`` each: the deepest alone, then each with the sum of all deeper ones."""
        projected = [
            projection(norm(x.movedim(1, 3)).movedim(3, 1))
            for norm, projection, x in zip(self.norms, self.projections, maps, strict=True)
        ]
        sums: list[Tensor] = []
        for x in reversed(projected):
            sums.append(x if not sums else sums[-1] + x)
        return [conv(x) for conv, x in zip(self.aggregated, sums, strict=True)]

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.conv_seg, *self.auxiliary_heads)


RECIPE: dict[str, Any] = {
    "num_classes": 150,
    "optimizer": "sgd",
    "lr": 0.001,
    "weight_decay": 0.0,
    "schedule": "polynomial",
    "batch_size": 8,
}  # section 4.1, ADE20K
VIT: dict[str, Any] = {"image_size": 512, "patch_bias": False, "final_norm": False}  # as mmsegmentation's
UP = {**VIT, "out_blocks": (10, 15, 20, 24)}
MLA = {**VIT, "out_blocks": (6, 12, 18, 24), "class_token": False}


@register_model(
    "setr_naive",
    Card(
        PAPER,
        2021,
        parameters=305_557_592,
        gmac=362.88,
        source="mmsegmentation 1.2.2 setr_vit-l_naive at 512, counted",
        result="ADE20K val: mIoU 48.06, 48.80 at several scales (authors' release)",
        **RECIPE,
    ),
)
def setr_naive(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_large", options=UP), auxiliary: bool = True
) -> SETR:
    """ViT-L/16, a 1x1 convolution, classes, enlarged in two steps; auxiliary heads on blocks 10, 15 and 20."""
    return _setr(num_classes, body.build(in_channels), auxiliary, (1, 1, 4), (2, 1, 4))


@register_model(
    "setr_pup",
    Card(
        PAPER,
        2021,
        parameters=317_290_072,
        gmac=425.20,
        source="mmsegmentation 1.2.2 setr_vit-l_pup at 512, counted",
        result="ADE20K val: mIoU 48.58, 50.09 at several scales (authors' release)",
        **RECIPE,
    ),
)
def setr_pup(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_large", options=UP), auxiliary: bool = True
) -> SETR:
    """ViT-L/16 and progressive upsampling: four times a 3x3 convolution and a doubling."""
    return _setr(num_classes, body.build(in_channels), auxiliary, (4, 3, 2), (2, 3, 4))


@register_model(
    "setr_mla",
    Card(
        PAPER,
        2021,
        parameters=309_567_214,
        gmac=368.14,
        source=(
            "mmsegmentation 1.2.2 setr_vit-l_mla at 512, counted; its 309,569,262 hold a class token and a position"
            " that nothing reads"
        ),
        result="ADE20K val: mIoU 48.64, 50.28 at several scales (authors' release)",
        **RECIPE,
    ),
)
def setr_mla(
    num_classes: int, in_channels: int = 3, body: Body = Body("vit_large", options=MLA), auxiliary: bool = True
) -> SETRMLA:
    """ViT-L/16 and multi-level feature aggregation of blocks 6, 12, 18 and 24."""
    return SETRMLA(body.build(in_channels), num_classes, auxiliary)


def _setr(
    num_classes: int,
    encoder: Encoder,
    auxiliary: bool,
    main: tuple[int, int, int],
    other: tuple[int, int, int],
) -> SETR:
    """``main`` and ``other`` are convolutions, kernel and scale of the head and of the auxiliary heads."""
    heads = [UpHead(channels, num_classes, *other) for channels in encoder.channels[:-1] if auxiliary]
    return SETR(encoder, UpHead(encoder.channels[-1], num_classes, *main), heads)

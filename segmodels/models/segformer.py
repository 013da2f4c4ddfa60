"""SegFormer (Xie et al.: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS
2021, arXiv 2105.15203).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.names import Names
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Xie et al.: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021,"
    " arXiv 2105.15203"
)
STRIDES = (4, 8, 16, 32)


class SegFormer(Model):
    """Encoder with maps at strides 4 to 32 and the all-MLP decoder (section 3.2): every map through a linear layer to
    ``channels``, at stride 4 side by side, fused, classes. Any input size.
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.linear_fuse\.(weight)$", r"linear_fuse.conv.\1"),
        (r"^decode_head\.batch_norm\.", "linear_fuse.norm."),
        (r"^decode_head\.classifier\.", "linear_pred."),
        *((rf"^decode_head\.linear_(c|projections)\.{i}\.(proj\.)?", f"linear_c{i + 1}.") for i in range(4)),
        (r"^decode_head\.linear_c(\d)\.proj\.", r"linear_c\1."),
        (r"^decode_head\.", ""),
    )
    unread: ClassVar[tuple[str, ...]] = ("conv_seg.",)  # the authors' files hold a layer that nothing reads

    def __init__(self, encoder: Encoder, num_classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        widths = encoder.channels_at(STRIDES)
        for i, width in enumerate(widths, start=1):
            self.add_module(f"linear_c{i}", nn.Linear(width, channels))
        self.linear_fuse = ConvNormAct(len(widths) * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder.maps(images, STRIDES)
        size = maps[0].shape[-2:]
        features = []
        for i, x in enumerate(maps, start=1):
            projected = self.get_submodule(f"linear_c{i}")(x.movedim(1, 3)).movedim(3, 1)
            features.append(resize(projected, size))
        fused = self.linear_fuse(torch.cat(features[::-1], dim=1))
        return PixelOutput(resize(self.linear_pred(self.dropout(fused)), images.shape[-2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.linear_pred]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The decoder learns ten times as fast as the body (section 4.1)."""
        body = {id(parameter) for parameter in self.encoder.parameters()}
        decoder = [parameter for parameter in self.parameters() if id(parameter) not in body]
        return [{"params": decoder, "lr_factor": 10.0}]

    def translate(self, key: str) -> str:
        if key.startswith("segformer."):
            return f"encoder.{self.encoder.translate(key)}"
        return super().translate(key)


RECIPE: dict[str, Any] = {
    "num_classes": 150,
    "optimizer": "adamw",
    "lr": 6e-5,
    "weight_decay": 0.01,
    "schedule": "polynomial",
    "batch_size": 16,
}  # section 4.1, ADE20K


@register_model(
    "segformer_b0",
    Card(
        PAPER,
        2021,
        parameters=3_752_694,
        gmac=8.39,
        source="transformers 5.23 SegformerForSemanticSegmentation, counted; the paper's count",
        result="ADE20K val: mIoU 37.4 (paper, table 1)",
        **RECIPE,
    ),
)
def segformer_b0(num_classes: int, in_channels: int = 3, body: Body = Body("mit_b0")) -> SegFormer:
    """SegFormer-B0: a decoder of 256 channels."""
    return SegFormer(body.build(in_channels), num_classes, channels=256)


@register_model(
    "segformer_b1",
    Card(
        PAPER,
        2021,
        parameters=13_715_798,
        gmac=15.88,
        source="transformers 5.23 SegformerForSemanticSegmentation, counted; the paper's count",
        result="ADE20K val: mIoU 42.2 (paper, table 1)",
        **RECIPE,
    ),
)
def segformer_b1(num_classes: int, in_channels: int = 3, body: Body = Body("mit_b1")) -> SegFormer:
    """SegFormer-B1: a decoder of 256 channels."""
    return SegFormer(body.build(in_channels), num_classes, channels=256)


@register_model(
    "segformer_b2",
    Card(
        PAPER,
        2021,
        parameters=27_461_974,
        gmac=62.34,
        source="transformers 5.23 SegformerForSemanticSegmentation, counted; the paper's count",
        result="ADE20K val: mIoU 46.5 (paper, table 1)",
        **RECIPE,
    ),
)
def segformer_b2(num_classes: int, in_channels: int = 3, body: Body = Body("mit_b2")) -> SegFormer:
    """SegFormer-B2: a decoder of 768 channels."""
    return SegFormer(body.build(in_channels), num_classes, channels=768)


@register_model(
    "segformer_b3",
    Card(
        PAPER,
        2021,
        parameters=47_337_814,
        gmac=78.96,
        source="transformers 5.23 SegformerForSemanticSegmentation, counted; the paper's count",
        result="ADE20K val: mIoU 49.4 (paper, table 1)",
        **RECIPE,
    ),
)
def segformer_b3(num_classes: int, in_channels: int = 3, body: Body = Body("mit_b3")) -> SegFormer:
    """SegFormer-B3: a decoder of 768 channels."""
    return SegFormer(body.build(in_channels), num_classes, channels=768)


@register_model(
    "segformer_b4",
    Card(
        PAPER,
        2021,
        parameters=64_108_374,
        gmac=95.57,
        source="transformers 5.23 SegformerForSemanticSegmentation, counted; the paper's count",
        result="ADE20K val: mIoU 50.3 (paper, table 1)",
        **RECIPE,
    ),
)
def segformer_b4(num_classes: int, in_channels: int = 3, body: Body = Body("mit_b4")) -> SegFormer:
    """SegFormer-B4: a decoder of 768 channels."""
    return SegFormer(body.build(in_channels), num_classes, channels=768)


@register_model(
    "segformer_b5",
    Card(
        PAPER,
        2021,
        parameters=84_708_694,
        gmac=111.51,
        source="transformers 5.23 SegformerForSemanticSegmentation, counted; the paper's count",
        result="ADE20K val: mIoU 51.0 (paper, table 1)",
        **RECIPE,
    ),
)
def segformer_b5(num_classes: int, in_channels: int = 3, body: Body = Body("mit_b5")) -> SegFormer:
    """SegFormer-B5: a decoder of 768 channels."""
    return SegFormer(body.build(in_channels), num_classes, channels=768)

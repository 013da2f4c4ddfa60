"""Semantic FPN (Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446): the semantic branch
on a feature pyramid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.blocks import group_norm, resize
from segmodels.layers.fpn import FPN, SemanticBranch
from segmodels.layers.names import FPN as FPN_NAMES
from segmodels.layers.names import SEMANTIC_BRANCH, Names
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446"
STRIDES = (4, 8, 16, 32)


class SemanticFPN(Model):
    """Encoder with maps at strides 4 to 32, feature pyramid, semantic branch, classes at stride 4. Any input size."""

    published: ClassVar[Names] = ((r"^decode_head\.", ""), *FPN_NAMES, *SEMANTIC_BRANCH)

    def __init__(self, encoder: Encoder, num_classes: int, norm: Callable[[int], nn.Module], dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.fpn = FPN(encoder.channels_at(STRIDES), 256)
        self.branch = SemanticBranch(4, 256, 128, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(128, num_classes, 1)

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        x = self.branch(self.fpn(self.encoder.maps(images, STRIDES)))
        return PixelOutput(resize(self.conv_seg(self.dropout(x)), images.shape[-2:]))

    def classifiers(self) -> list[nn.Module]:
        return [self.conv_seg]


RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "batch_size": 32,
}  # section 5, Cityscapes


@register_model(
    "semantic_fpn_resnet50",
    Card(PAPER, 2019, parameters=28_478_675, num_classes=19, gmac=44.02, source="own count", **RECIPE),
)
def semantic_fpn_resnet50(num_classes: int, in_channels: int = 3, body: Body = Body("resnet50")) -> SemanticFPN:
    """The paper's form, with group norm, on ResNet-50."""
    return SemanticFPN(body.build(in_channels), num_classes, group_norm, dropout=0.0)


@register_model(
    "semantic_fpn_resnet101",
    Card(
        PAPER,
        2019,
        parameters=47_470_803,
        num_classes=19,
        gmac=63.41,
        source="own count",
        result="Cityscapes val: mIoU 77.7 (paper, table 1)",
        **RECIPE,
    ),
)
def semantic_fpn_resnet101(num_classes: int, in_channels: int = 3, body: Body = Body("resnet101")) -> SemanticFPN:
    """The paper's form, with group norm, on ResNet-101."""
    return SemanticFPN(body.build(in_channels), num_classes, group_norm, dropout=0.0)


@register_model(
    "semantic_fpn_r50",
    Card(
        PAPER,
        2019,
        parameters=28_514_806,
        num_classes=150,
        gmac=45.54,
        source="mmsegmentation 1.2.2 sem_fpn fpn_r50, counted",
        result="ADE20K val: mIoU 37.49 (mmsegmentation)",
    ),
)
def semantic_fpn_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50", options=DEEP_STEM)
) -> SemanticFPN:
    """mmseg's form: a deep stem, batch norm, dropout before the classes."""
    return SemanticFPN(body.build(in_channels), num_classes, nn.BatchNorm2d, dropout=0.1)

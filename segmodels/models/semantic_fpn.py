"""Semantic FPN (Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446): the semantic branch
on a feature pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.registry import create_encoder
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.fpn import FPN
from segmodels.models.dilated import create_body
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Kirillov et al.: Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446"


class SemanticBranch(nn.Module):
    """Maps of a pyramid, each half as large as the one before, enlarged to the size of the first by steps of 3x3
    convolution and doubling, and added.

    The first map goes through a convolution alone, map i through i steps (section 3.1).

    Args:
        levels: how many maps, all of ``in_channels``.
        channels: of the sum.
        norm: normalisation after each convolution.
    """

    def __init__(self, levels: int, in_channels: int, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(
                    ConvNormAct(in_channels if step == 0 else channels, channels, norm=norm)
                    for step in range(max(level, 1))
                )
            )
            for level in range(levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        sizes = [x.shape[-2:] for x in maps]
        total = self.levels[0](maps[0])
        for level in range(1, len(maps)):
            x = maps[level]
            for step, size in zip(self.levels[level].children(), reversed(sizes[:level]), strict=True):
                x = resize(step(x), size)
            total = total + x
        return total


class SemanticFPN(nn.Module):
    """Encoder with maps at strides 4 to 32, feature pyramid, semantic branch, classes at stride 4. Any input size."""

    def __init__(self, encoder: Encoder, num_classes: int, norm: Callable[[int], nn.Module], dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.fpn = FPN(encoder.channels[-4:], 256)
        self.branch = SemanticBranch(4, 256, 128, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(128, num_classes, 1)

    def forward(self, images: Tensor) -> PixelOutput:
        x = self.branch(self.fpn(self.encoder(images)[-4:]))
        return PixelOutput(resize(self.conv_seg(self.dropout(x)), images.shape[-2:]))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


def _register(name: str, body_name: str, parameters: int, gmac: float, result: str) -> None:
    """The paper's form, with group norm."""
    card = Card(
        PAPER,
        2019,
        default_encoder=body_name,
        parameters=parameters,
        num_classes=19,
        gmac=gmac,
        source="own count",
        result=result,
    )

    @register_model(name, card)
    def build(
        num_classes: int,
        in_channels: int = 3,
        encoder: str = body_name,
        encoder_weights: str | None = None,
        encoder_options: dict[str, Any] | None = None,
    ) -> nn.Module:
        body = create_encoder(encoder, in_channels, weights=encoder_weights, **(encoder_options or {}))
        return SemanticFPN(body, num_classes, _group_norm, dropout=0.0)


_register("semantic_fpn_resnet50", "resnet50", 28_478_675, 44.02, "")
_register("semantic_fpn_resnet101", "resnet101", 47_470_803, 63.41, "Cityscapes val: mIoU 77.7 (paper, table 1)")


@register_model(
    "semantic_fpn_r50",
    Card(
        PAPER,
        2019,
        default_encoder="resnet50",
        parameters=28_514_806,
        num_classes=150,
        gmac=45.54,
        source="specification [M]: mmseg sem_fpn_r50",
        result="ADE20K val: mIoU 37.49 (mmseg)",
    ),
)
def semantic_fpn_r50(
    num_classes: int,
    in_channels: int = 3,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
) -> nn.Module:
    """mmseg's form: a deep stem, batch norm, dropout before the classes."""
    return SemanticFPN(
        create_body(encoder, in_channels, 32, encoder_weights, encoder_options),
        num_classes,
        nn.BatchNorm2d,
        dropout=0.1,
    )

"""DetectoRS (Qiao et al.: DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable Atrous
Convolution, CVPR 2021, arXiv 2006.02334): HTC on an encoder and a pyramid that look twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.encoders.resnet import ResNet
from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct
from segmodels.layers.cascade_heads import CascadeHeads, SemanticContext
from segmodels.layers.fpn import FPN
from segmodels.layers.roi_heads import HeadSettings
from segmodels.layers.rpn import RegionProposals
from segmodels.models.htc import LOSSES, STAGE_WEIGHTS, HybridTaskCascade
from segmodels.models.registry import Card, register_model
from segmodels.models.two_stage import SIDES, STRIDES, check_sides

PAPER = (
    "Qiao et al.: DetectoRS: Detecting Objects with Recursive Feature Pyramid and Switchable Atrous Convolution, CVPR"
    " 2021, arXiv 2006.02334"
)


class Feedback(nn.Module):
    """Feedback of a map of the pyramid to the encoder (figure 3): convolutions of three dilations and the pooled map
    side by side, a quarter of the channels each; ReLU. ``(B, channels, h, w)`` to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        own = channels // 4
        self.convs = nn.ModuleList(
            ConvNormAct(channels, own, size, dilation=dilation, norm=None)
            for size, dilation in ((1, 1), (3, 3), (3, 6))
        )
        self.pooled = ConvNormAct(channels, own, 1, norm=None)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True))
        return torch.cat([*(conv(x) for conv in self.convs), pooled.expand(-1, -1, *x.shape[2:])], dim=1)


class DetectoRS(HybridTaskCascade):
    """HTC whose pyramid feeds a second encoder, with weights of its own; the same pyramid of this encoder's maps is
    mixed with the first, pixel by pixel, by a learned gate (section 3.2 and 3.3).

    Args:
        encoder, second: of the two looks.
        channels: of the pyramid, a multiple of 4.

    Raises:
        InputError: the second encoder is no ResNet.
    """

    def __init__(
        self,
        encoder: Encoder,
        second: Encoder,
        fpn: FPN,
        rpn: RegionProposals,
        roi_heads: CascadeHeads,
        context: SemanticContext | None,
        channels: int,
    ) -> None:
        super().__init__(encoder, fpn, rpn, roi_heads, context)
        if not isinstance(second, ResNet):
            raise InputError(
                f"the encoder is a {type(second).__name__}, expected a ResNet, whose blocks take DetectoRS's feedback:"
                " choose resnet18, resnet34, resnet50, resnet101 or resnet152"
            )
        second.take_feedback(channels)
        self.second = second
        self.feedback = Feedback(channels)
        self.gate = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.gate.weight)
        assert self.gate.bias is not None
        nn.init.zeros_(self.gate.bias)

    def maps(self, images: Tensor) -> list[Tensor]:
        first = super().maps(images)
        again = self.second(images, [self.feedback(x) for x in first[1:]])
        found = []
        for old, new in zip(first, self.fpn(again[-len(STRIDES) :]), strict=True):
            share = self.gate(new).sigmoid()
            found.append(share * new + (1 - share) * old)
        return found


@register_model(
    "detectors_r50",
    Card(
        PAPER,
        2021,
        tasks=("instance",),
        losses=LOSSES,
        auxiliary_weights=STAGE_WEIGHTS,
        least_classes=1,
        parameters=131_952_449,
        num_classes=80,
        gmac=309.8,
        source=(
            "mmdetection 3.3 detectors_htc_r50, counted: 134,754,552 with the context of COCO-Stuff's 183 classes,"
            " without it 2,802,103 fewer; GMAC of 1,000 proposals and 100 detections, own count"
        ),
        result="COCO val2017: box AP 49.1, mask AP 42.6 (authors' code in mmdetection)",
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        batch_size=16,
    ),
)
def detectors_r50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options={"switchable": True}),
    semantic_classes: int = 0,
    channels: int = 256,
    hidden: int = 1024,
    sides: Sequence[float] = SIDES,
    samples: int = 512,
    detections: int = 100,
) -> DetectoRS:
    """On ResNet-50 with switchable atrous convolutions, two looks. Options as of ``htc_r50_fpn``; ``encoder_options``
    ``{switchable: false}`` leaves the recursive pyramid alone.

    Raises:
        InputError: not a side for each map, channels that are no multiple of 4, or an encoder that is no ResNet.
    """
    check_sides(sides)
    if channels < 4 or channels % 4:
        raise InputError(f"channels is {channels}, expected a multiple of 4, a quarter for each part of the feedback")
    encoder, second = body.build(in_channels), body.build(in_channels)
    return DetectoRS(
        encoder,
        second,
        FPN(encoder.channels_at(STRIDES), channels),
        RegionProposals(channels, sides),
        CascadeHeads(num_classes, HeadSettings(channels, hidden, samples=samples, most=detections)),
        SemanticContext(len(sides), channels, semantic_classes) if semantic_classes else None,
        channels,
    )

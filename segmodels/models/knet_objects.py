"""K-Net for instance and panoptic segmentation (Zhang et al.: K-Net: Towards Unified Image Segmentation, NeurIPS 2021,
arXiv 2106.14855, sections 3.3 and 3.4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import check_positive, group_norm
from segmodels.layers.fpn import FPN, SemanticBranch
from segmodels.layers.kernel_update import KernelUpdate
from segmodels.models.base import Model
from segmodels.models.knet import PAPER
from segmodels.models.maskformer import encoder_groups
from segmodels.models.registry import Card, register_model
from segmodels.outputs import QueryOutput

STRIDES = (4, 8, 16, 32)


class KNetObjects(Model):
    """Learned kernels on the sum of a feature pyramid; rounds of updates show each kernel the features under its own
    mask, and after every round a kernel says a class beside its mask.

    Kernels are matched with segments, things and stuff alike, and their classes exclude each other. The paper gives
    each class of stuff a kernel without matching, and trains classes by sigmoids. Masks are at stride 4. In training
    ``auxiliary`` holds what the learned kernels and all rounds but the last say. Any input size.

    Args:
        kernels: how many segments an image can have.
        encoder_rate: learning rate of the encoder over that of the rest.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        kernels: int = 100,
        channels: int = 256,
        rounds: int = 3,
        encoder_rate: float = 0.25,
    ) -> None:
        super().__init__()
        check_positive("kernels", kernels)
        self.encoder_rate = encoder_rate
        self.encoder = encoder
        self.fpn = FPN(encoder.channels_at(STRIDES), channels)
        self.branch = SemanticBranch(len(STRIDES), channels, channels, group_norm)
        self.kernels = nn.Conv2d(channels, kernels, 1)
        self.rounds = nn.ModuleList(KernelUpdate(channels, masks_to_weights=torch.sigmoid) for _ in range(rounds))
        self.classes = nn.ModuleList(nn.Linear(channels, num_classes + 1) for _ in range(rounds + 1))

    def forward(self, images: Tensor, guide: Any = None) -> QueryOutput:
        features = self.branch(self.fpn(self.encoder.maps(images, STRIDES)))
        size = (images.shape[2], images.shape[3])
        kernels = self.kernels.weight.flatten(1).repeat(features.shape[0], 1, 1)
        masks = self.kernels(features)
        outputs = [QueryOutput(self.classes[0](kernels), masks, size=size)]
        for update, classes in zip(self.rounds, list(self.classes)[1:], strict=True):
            masks, kernels = update(features, kernels, masks)
            outputs.append(QueryOutput(classes(kernels), masks, size=size))
        *earlier, last = outputs
        return last._replace(auxiliary=tuple(earlier) if self.training else ())

    def classifiers(self) -> list[nn.Module]:
        return list(self.classes)[::-1]

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        return encoder_groups(self.encoder, self.encoder_rate)


RECIPE: dict[str, Any] = {
    "losses": {
        "mask_classification": {"class_weight": 2.0, "mask_weight": 1.0, "dice_weight": 4.0, "mask_loss": "bce"}
    },
    "auxiliary_weights": (1.0,),
    "least_classes": 1,
    "num_classes": 133,
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 0.05,
    "batch_size": 16,
}  # section 4.1 and the authors' configuration


@register_model(
    "knet_objects_r50",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance"),
        parameters=37_075_644,
        gmac=61.23,
        source="own count",
        result="COCO panoptic val: PQ 47.1 (authors' release)",
        **RECIPE,
    ),
)
def knet_objects_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50"), kernels: int = 100
) -> KNetObjects:
    """ResNet-50, which learns at a quarter of the rate."""
    return KNetObjects(body.build(in_channels), num_classes, kernels)


@register_model(
    "knet_objects_swin_l",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance"),
        parameters=208_320_016,
        gmac=233.28,
        source="own count",
        result="COCO panoptic val: PQ 54.6 (authors' release)",
        **RECIPE,
    ),
)
def knet_objects_swin_l(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_large"), kernels: int = 100
) -> KNetObjects:
    """Swin-L, which learns at a quarter of the rate."""
    return KNetObjects(body.build(in_channels), num_classes, kernels)

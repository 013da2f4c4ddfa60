"""K-Net (Zhang et al.: K-Net: Towards Unified Image Segmentation, NeurIPS 2021, arXiv 2106.14855), semantic
segmentation.

Every class has a kernel, at first the weights of an ordinary decoder's classifier; rounds of updates show it the
features under its own mask. The rounds know nothing of classes: N kernels make N masks; ``knet_objects`` makes objects
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.aspp import ASPP, rates_at
from segmodels.layers.blocks import resize
from segmodels.layers.heads import ConcatFeatures, FCNHead
from segmodels.layers.kernel_update import KernelUpdate
from segmodels.layers.names import Names, renamed
from segmodels.layers.pyramid_pooling import PyramidPooling
from segmodels.layers.uper import UPerDecoder
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Zhang et al.: K-Net: Towards Unified Image Segmentation, NeurIPS 2021, arXiv 2106.14855"


class KNet(Model):
    """Encoder, decoder to features, classes by static kernels, rounds of kernel updates.

    In training ``auxiliary`` holds the logits of the static kernels and of all rounds but the last (weight 1 in the
    paper), then those of an FCN head on the encoder's map before the last (0.4).

    Args:
        decoder: the encoder's maps to features ``(B, channels, h, w)``.
        auxiliary_channels: of the FCN head; None: a quarter of its input's.
    """

    published: ClassVar[Names] = (
        (r"^decode_head\.kernel_generate_head\.conv_seg\.", "conv_seg."),
        (r"^decode_head\.kernel_update_head\.", "kernel_update_head."),
        (r"\.attention\.attn\.in_proj_(weight|bias)$", r".attention.in_proj.\1"),
        (r"\.attention\.attn\.out_proj\.", ".attention.out_proj."),
        (r"\.ffn\.layers\.0\.0\.", ".ffn.0."),
        (r"\.ffn\.layers\.1\.", ".ffn.2."),
    )

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        num_classes: int,
        channels: int = 512,
        rounds: int = 3,
        auxiliary: bool = True,
        dropout: float = 0.1,
        auxiliary_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.kernel_update_head = nn.ModuleList(KernelUpdate(channels) for _ in range(rounds))
        self.aux_classifier = (
            FCNHead(encoder.channels[-2], num_classes, channels=auxiliary_channels) if auxiliary else None
        )

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        maps = self.encoder(images)
        *earlier, masks = self.masks(self.decoder(maps))
        size = images.shape[-2:]
        if not self.training or self.aux_classifier is None:
            return PixelOutput(resize(masks, size))
        return PixelOutput(
            resize(masks, size), tuple(resize(x, size) for x in (*earlier, self.aux_classifier(maps[-2])))
        )

    def translate(self, key: str) -> str:
        """The decoder has names of its own, ``published`` of its one part."""
        key, head = super().translate(key), "decode_head.kernel_generate_head."
        if not key.startswith(head):
            return key
        name, part = next(self.decoder.named_children())
        return f"decoder.{name}.{renamed(key.removeprefix(head), getattr(part, 'published', ()))}"

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.conv_seg, self.aux_classifier)

    def masks(self, features: Tensor) -> list[Tensor]:
        """Logits ``(B, num_classes, h, w)`` of the static kernels and of every round."""
        masks = [self.conv_seg(self.dropout(features))]
        kernels = self.conv_seg.weight.flatten(1).repeat(features.shape[0], 1, 1)
        for update in self.kernel_update_head:
            new, kernels = update(features, kernels, masks[-1])
            masks.append(new)
        return masks


class LastMap(nn.Module):
    """A decoder that reads the encoder's last map alone."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.layers(maps[-1])


class FusedPyramid(nn.Module):
    """UPerNet's decoder on the encoder's maps at strides 4 to 32, of which the fused map is read."""

    def __init__(self, encoder: Encoder, channels: int) -> None:
        super().__init__()
        self.places = [encoder.place(stride) for stride in (4, 8, 16, 32)]
        self.pyramid = UPerDecoder([encoder.channels[place] for place in self.places], channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.pyramid([maps[place] for place in self.places]).fused


RECIPE: dict[str, Any] = {
    "auxiliary_weights": (1.0, 1.0, 1.0, 0.4),
    "optimizer": "adamw",
    "lr": 1e-4,
    "batch_size": 16,
}  # section 4


@register_model(
    "knet_fcn_r50_d8",
    Card(
        PAPER,
        2021,
        parameters=62_810_508,
        num_classes=150,
        gmac=205.11,
        source="mmsegmentation 1.2.2 knet-s3_r50-d8_fcn, counted",
        result="ADE20K val: mIoU 43.60 (mmsegmentation)",
        **RECIPE,
    ),
)
def knet_fcn_r50_d8(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50", options=DEEP_STEM), auxiliary: bool = True
) -> KNet:
    """ResNet-50 with a deep stem, the decoder of ``fcn_r50_d8`` to 512 channels, three rounds."""
    encoder = body.build(in_channels, 8)
    return KNet(encoder, LastMap(ConcatFeatures(encoder.channels[-1], 512)), num_classes, auxiliary=auxiliary)


@register_model(
    "knet_pspnet_r50_d8",
    Card(
        PAPER,
        2021,
        parameters=62_288_268,
        num_classes=150,
        gmac=185.84,
        source="mmsegmentation 1.2.2 knet-s3_r50-d8_pspnet, counted",
        result="ADE20K val: mIoU 44.18 (mmsegmentation)",
        **RECIPE,
    ),
)
def knet_pspnet_r50_d8(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50", options=DEEP_STEM), auxiliary: bool = True
) -> KNet:
    """ResNet-50 with a deep stem, the decoder of ``pspnet_r50_d8`` to 512 channels, three rounds."""
    encoder = body.build(in_channels, 8)
    return KNet(encoder, LastMap(PyramidPooling(encoder.channels[-1], 512)), num_classes, auxiliary=auxiliary)


@register_model(
    "knet_deeplab_v3_r50_d8",
    Card(
        PAPER,
        2021,
        parameters=81_425_804,
        num_classes=150,
        gmac=277.06,
        source="mmsegmentation 1.2.2 knet-s3_r50-d8_deeplabv3, counted",
        result="ADE20K val: mIoU 45.06 (mmsegmentation)",
        **RECIPE,
    ),
)
def knet_deeplab_v3_r50_d8(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50", options=DEEP_STEM), auxiliary: bool = True
) -> KNet:
    """ResNet-50 with a deep stem, the decoder of ``deeplab_v3_r50_d8`` to 512 channels, three rounds."""
    encoder = body.build(in_channels, 8)
    aspp = ASPP(encoder.channels[-1], 512, rates_at(8), pooling_first=True, projection=3, dropout=0.0)
    return KNet(encoder, LastMap(aspp), num_classes, auxiliary=auxiliary)


@register_model(
    "knet_upernet_r50",
    Card(
        PAPER,
        2021,
        parameters=79_728_012,
        num_classes=150,
        gmac=260.43,
        source="mmsegmentation 1.2.2 knet-s3_r50-d8_upernet, counted",
        result="ADE20K val: mIoU 43.45 (mmsegmentation)",
        **RECIPE,
    ),
)
def knet_upernet_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50", options=DEEP_STEM), auxiliary: bool = True
) -> KNet:
    """ResNet-50 with a deep stem, the decoder of ``upernet_r50`` to 512 channels, three rounds."""
    encoder = body.build(in_channels)
    return KNet(encoder, FusedPyramid(encoder, 512), num_classes, auxiliary=auxiliary)


SWIN: dict[str, Any] = {**RECIPE, "lr": 6e-5, "weight_decay": 5e-4}  # the authors' configuration


@register_model(
    "knet_upernet_swin_t",
    Card(
        PAPER,
        2021,
        parameters=73_153_766,
        num_classes=150,
        gmac=259.43,
        source="mmsegmentation 1.2.2 knet-s3_swin-t_upernet, counted",
        result="ADE20K val: mIoU 45.84 (mmsegmentation)",
        **SWIN,
    ),
)
def knet_upernet_swin_t(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_tiny"), auxiliary: bool = True
) -> KNet:
    """Swin-T, the decoder of ``upernet_r50`` to 512 channels, three rounds."""
    encoder = body.build(in_channels)
    return KNet(encoder, FusedPyramid(encoder, 512), num_classes, auxiliary=auxiliary, auxiliary_channels=256)


@register_model(
    "knet_upernet_swin_l",
    Card(
        PAPER,
        2021,
        parameters=246_971_840,
        num_classes=150,
        size=(640, 640),
        gmac=658.27,
        source="own count; the same code as knet_upernet_swin_t, whose count is mmsegmentation's",
        result="ADE20K val: mIoU 52.21 (mmsegmentation), 54.3 (paper, abstract); pretrained on ImageNet-22K",
        **SWIN,
    ),
)
def knet_upernet_swin_l(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_large"), auxiliary: bool = True
) -> KNet:
    """Swin-L, the decoder of ``upernet_r50`` to 512 channels, three rounds."""
    encoder = body.build(in_channels)
    return KNet(encoder, FusedPyramid(encoder, 512), num_classes, auxiliary=auxiliary, auxiliary_channels=256)

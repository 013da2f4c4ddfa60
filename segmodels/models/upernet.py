"""UPerNet (Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.errors import nearest
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.fpn import top_down
from segmodels.layers.pyramid_pooling import PyramidPooling
from segmodels.models.dilated import FCNHead, create_body
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = "Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221"


class UPerFeatures(NamedTuple):
    """What heads can read; h and w are the height and width of the finest map."""

    fused: Tensor  # (B, channels, h, w), all levels of the pyramid in one
    pyramid: list[Tensor]  # (B, channels, h_i, w_i), from fine to coarse; the last is the output of pyramid pooling


class UPerDecoder(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid from there down, and its levels side by side through a 3x3
    convolution (section 3.1).

    Batch norm and ReLU after every convolution. Maps ``(B, in_channels[i], h_i, w_i)``, from fine to coarse, of any
    sizes.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 512) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels)
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, 1) for width in in_channels[:-1])
        self.outputs = nn.ModuleList(ConvNormAct(channels, channels) for _ in in_channels[:-1])
        self.fuse = ConvNormAct(len(in_channels) * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> UPerFeatures:
        laterals = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=False)]
        *sums, pooled = top_down([*laterals, self.pooling(maps[-1])], mode="bilinear")
        pyramid = [*(output(x) for output, x in zip(self.outputs, sums, strict=True)), pooled]
        size = pyramid[0].shape[-2:]
        return UPerFeatures(self.fuse(torch.cat([resize(x, size) for x in pyramid], dim=1)), pyramid)


class TaskHeads(nn.ModuleDict):
    """The heads of unified perceptual parsing beside the objects' (section 3.2, figure 4), each at the level that suits
    its task.

    ``scene`` classifies the image from the average of the pooled map, ``part`` every pixel from the fused map,
    ``material`` from the finest level of the pyramid, each after a 3x3 convolution; ``texture`` from the encoder's map
    at stride 4 after four 3x3 convolutions of 128 channels. As in the paper nothing of the texture's gradient reaches
    the encoder.

    Args:
        encoder_channels: of the encoder's map at stride 4.
        channels: of the decoder's maps.
        tasks: number of classes of each task.

    Raises:
        InputError: unknown task (with the nearest names).
    """

    def __init__(self, encoder_channels: int, channels: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        for task, classes in tasks.items():
            if task == "scene":
                self[task] = nn.Sequential(
                    ConvNormAct(channels, channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
                )
            elif task in ("part", "material"):
                self[task] = nn.Sequential(ConvNormAct(channels, channels), nn.Conv2d(channels, classes, 1))
            elif task == "texture":
                widths = (encoder_channels, 128, 128, 128)
                self[task] = nn.Sequential(*(ConvNormAct(width, 128) for width in widths), nn.Conv2d(128, classes, 1))
            else:
                raise nearest("task of UPerNet", task, ["material", "part", "scene", "texture"])

    def forward(self, encoder_map: Tensor, features: UPerFeatures, size: Sequence[int]) -> dict[str, Tensor]:
        """Logits of every task: ``(B, K)`` for the scene, ``(B, K, *size)`` for the others."""
        inputs = {
            "scene": features.pyramid[-1],
            "part": features.fused,
            "material": features.pyramid[0],
            "texture": encoder_map.detach(),
        }
        logits = {task: head(inputs[task]) for task, head in self.items()}
        return {task: scores if task == "scene" else resize(scores, size) for task, scores in logits.items()}


class UPerNet(nn.Module):
    """Encoder with maps at strides 4 to 32, decoder, dropout, object classes on the fused map; an auxiliary head and
    further tasks if wanted.

    Args:
        tasks: number of classes of each of ``scene``, ``part``, ``material`` and ``texture`` that is wanted, see
            ``TaskHeads``. Their logits are ``extras["further"]``, in training and evaluation; labels of such tasks, and
            so their losses, are the caller's.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        channels: int = 512,
        tasks: Mapping[str, int] | None = None,
        auxiliary: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = UPerDecoder(encoder.channels[-4:], channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.aux_classifier = FCNHead(encoder.channels[-2], num_classes) if auxiliary else None
        self.task_heads = TaskHeads(encoder.channels[-4], channels, tasks) if tasks else None

    def forward(self, images: Tensor) -> PixelOutput:
        size = images.shape[-2:]
        maps = self.encoder(images)[-4:]
        features = self.decoder(maps)
        logits = resize(self.conv_seg(self.dropout(features.fused)), size)
        auxiliary = (
            (resize(self.aux_classifier(maps[-2]), size),) if self.training and self.aux_classifier is not None else ()
        )
        return PixelOutput(
            logits,
            auxiliary,
            extras={"further": self.task_heads(maps[0], features, size)} if self.task_heads is not None else {},
        )


def _register(name: str, card: Card, default_tasks: Mapping[str, int] | None) -> None:
    """mmseg's form: a ResNet with a deep stem; auxiliary weight 0.4."""

    @register_model(name, card)
    def build(
        num_classes: int,
        in_channels: int = 3,
        encoder: str = "resnet50",
        encoder_weights: str | None = None,
        encoder_options: dict[str, Any] | None = None,
        tasks: Mapping[str, int] | None = default_tasks,
        auxiliary: bool = True,
    ) -> nn.Module:
        body = create_body(encoder, in_channels, 32, encoder_weights, encoder_options)
        return UPerNet(body, num_classes, tasks=tasks, auxiliary=auxiliary)


def _card(num_classes: int, parameters: int, gmac: float, source: str, result: str = "") -> Card:
    return Card(
        PAPER,
        2018,
        default_encoder="resnet50",
        parameters=parameters,
        num_classes=num_classes,
        gmac=gmac,
        source=source,
        result=result,
    )


# The classes of Broden+, on which the paper trains all tasks (table 1); its 335 object classes are the model's
# num_classes.
BRODEN = {"scene": 365, "part": 152, "material": 26, "texture": 47}

_register(
    "upernet_r50",
    _card(
        150,
        66_516_108,
        237.86,
        "specification [M]: mmseg upernet_r50",
        "ADE20K val: mIoU 41.22 (paper, several scales), 42.05 (mmseg)",
    ),
    default_tasks=None,
)
_register(
    "upernet_r50_multitask",
    _card(335, 74_762_444, 331.00, "own count; without the tasks that of upernet_r50"),
    default_tasks=BRODEN,
)

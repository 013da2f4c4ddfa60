"""UPerNet (Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.heads import FCNHead
from segmodels.layers.names import renamed
from segmodels.layers.uper import UPerDecoder, UPerFeatures
from segmodels.models.base import Model, last_layers
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput
from segmodels.suggest import nearest

PAPER = "Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018, arXiv 1807.10221"
STRIDES = (4, 8, 16, 32)
BRODEN = {"scene": 365, "part": 152, "material": 26, "texture": 47}
"""Classes of Broden+, on which the paper trains all tasks (table 1), beside its 335 object classes."""


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


class UPerNet(Model):
    """Encoder with maps at strides 4 to 32, decoder, dropout, object classes on the fused map; an auxiliary head and
    further tasks if wanted.

    Args:
        tasks: number of classes of each of ``scene``, ``part``, ``material`` and ``texture`` that is wanted, see
            ``TaskHeads``. Their logits are ``extras["further"]`` by name, in training and evaluation, for the loss
            ``further``; leave out those that the dataset has no labels for. With tasks the objects' head has a 3x3
            convolution of its own, as in the authors' release.
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
        widths = encoder.channels_at(STRIDES)
        self.decoder = UPerDecoder(widths, channels)
        self.object_conv = ConvNormAct(channels, channels) if tasks else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.aux_classifier = FCNHead(widths[2], num_classes) if auxiliary else None
        self.task_heads = TaskHeads(widths[0], channels, tasks) if tasks else None

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        size = images.shape[-2:]
        maps = self.encoder.maps(images, STRIDES)
        features = self.decoder(maps)
        logits = resize(self.conv_seg(self.dropout(self.object_conv(features.fused))), size)
        auxiliary = (
            (resize(self.aux_classifier(maps[-2]), size),) if self.training and self.aux_classifier is not None else ()
        )
        return PixelOutput(
            logits,
            auxiliary,
            extras={"further": self.task_heads(maps[0], features, size)} if self.task_heads is not None else {},
        )

    def translate(self, key: str) -> str:
        key = super().translate(key)
        if not key.startswith("decode_head."):
            return key
        key = key.removeprefix("decode_head.")
        return key if key.startswith("conv_seg.") else f"decoder.{renamed(key, self.decoder.published)}"

    def classifiers(self) -> list[nn.Module]:
        return last_layers(self.conv_seg, self.aux_classifier)


RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "weight_decay": 1e-4, "schedule": "polynomial"}  # section 4.1


@register_model(
    "upernet_r50",
    Card(
        PAPER,
        2018,
        parameters=66_516_108,
        num_classes=150,
        gmac=237.86,
        source="mmsegmentation 1.2.2 upernet_r50, counted",
        result="ADE20K val: mIoU 41.22 (paper, several scales), 42.05 (mmsegmentation)",
        **RECIPE,
    ),
)
def upernet_r50(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    tasks: Mapping[str, int] | None = None,
    auxiliary: bool = True,
) -> UPerNet:
    """mmseg's form: ResNet-50 with a deep stem; auxiliary weight 0.4."""
    return UPerNet(body.build(in_channels), num_classes, tasks=tasks, auxiliary=auxiliary)


@register_model(
    "upernet_r50_multitask",
    Card(
        PAPER,
        2018,
        losses={"cross_entropy": 1.0, "further": 1.0},
        parameters=77_122_764,
        num_classes=335,
        gmac=369.65,
        source="own count; without the tasks that of upernet_r50",
        **RECIPE,
    ),
)
def upernet_r50_multitask(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    tasks: Mapping[str, int] | None = BRODEN,
    auxiliary: bool = True,
) -> UPerNet:
    """Unified perceptual parsing: objects, and the scene, parts, materials and textures, with Broden+'s classes.

    Heads without labels get no gradient but 0; ``tasks`` with fewer entries leaves them out.
    """
    return UPerNet(body.build(in_channels), num_classes, tasks=tasks, auxiliary=auxiliary)

"""MaskFormer (Cheng et al.: Per-Pixel Classification is Not All You Need for Semantic Segmentation, NeurIPS 2021, arXiv
2107.06278).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import check_positive
from segmodels.layers.names import Names, renamed
from segmodels.layers.pixel_decoders import PyramidPixelDecoder
from segmodels.layers.positions import sine_positions
from segmodels.layers.query_decoder import TRANSFORMERS, QueryLayer, joined_projections, mlp
from segmodels.models.base import Model
from segmodels.models.registry import Card, register_model
from segmodels.outputs import QueryOutput

PAPER = (
    "Cheng et al.: Per-Pixel Classification is Not All You Need for Semantic Segmentation, NeurIPS 2021,"
    " arXiv 2107.06278"
)
STRIDES = (4, 8, 16, 32)


class MaskFormer(Model):
    """Encoder with maps at strides 4 to 32, pixel decoder, transformer decoder of learned queries on the coarsest map;
    each query says a class and, by scalar product with the pixels' embeddings, a mask (section 3).

    Masks are at stride 4. In training ``auxiliary`` holds what the queries say after each layer but the last, first
    layer first, each through the decoder's last normalisation as in the authors' release (transformers leaves it out
    there). Any input size.

    Args:
        queries: how many segments an image can have.
        encoder_rate: learning rate of the encoder over that of the rest.
    """

    published: ClassVar[Names] = (
        (r"^model\.pixel_level_module\.decoder\.fpn\.stem\.", "pixel_decoder.stem."),
        (r"^model\.pixel_level_module\.decoder\.fpn\.layers\.(\d)\.proj\.", r"pixel_decoder.laterals.\1."),
        (r"^model\.pixel_level_module\.decoder\.fpn\.layers\.(\d)\.block\.", r"pixel_decoder.outputs.\1."),
        (r"^(pixel_decoder\..*)\.0\.(weight|bias)$", r"\1.conv.\2"),
        (r"^(pixel_decoder\..*)\.1\.(weight|bias)$", r"\1.norm.\2"),
        (r"^model\.pixel_level_module\.decoder\.mask_projection\.", "pixel_decoder.mask_features."),
        (r"^model\.transformer_module\.queries_embedder\.", "query_embed."),
        (r"^model\.transformer_module\.input_projection\.", "input_proj."),
        (r"^model\.transformer_module\.decoder\.layernorm\.", "norm."),
        (r"^model\.transformer_module\.decoder\.", ""),
        (r"^class_predictor\.", "class_embed."),
        *((rf"^mask_embedder\.{i}\.0\.", f"mask_embed.{2 * i}.") for i in range(3)),
        *TRANSFORMERS,
    )
    unread: ClassVar[tuple[str, ...]] = ("criterion.", "encoder.layernorm.")

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        queries: int = 100,
        channels: int = 256,
        mask_channels: int = 256,
        layers: int = 6,
        hidden: int = 2048,
        dropout: float = 0.1,
        encoder_rate: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("queries", queries)
        self.encoder_rate = encoder_rate
        self.encoder = encoder
        widths = encoder.channels_at(STRIDES)
        self.pixel_decoder = PyramidPixelDecoder(widths, channels, mask_channels)
        self.input_proj = nn.Conv2d(widths[-1], channels, 1)
        nn.init.xavier_uniform_(self.input_proj.weight)
        self.query_embed = nn.Embedding(queries, channels)
        self.layers = nn.ModuleList(QueryLayer(channels, 8, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = mlp(channels, channels, channels, mask_channels)

    def forward(self, images: Tensor, guide: Any = None) -> QueryOutput:
        maps = self.encoder.maps(images, STRIDES)
        pixels = self.pixel_decoder(maps)
        size = (images.shape[2], images.shape[3])
        *earlier, last = [self.read(queries, pixels, size) for queries in self.decode(maps[-1])]
        return last._replace(auxiliary=tuple(earlier))

    def decode(self, coarsest: Tensor) -> list[Tensor]:
        """Queries ``(B, Q, C)`` after every layer in training, after the last alone in evaluation."""
        features = self.input_proj(coarsest)
        places = sine_positions(features)
        features = features.flatten(2).transpose(1, 2)
        identities = self.query_embed.weight
        queries = torch.zeros_like(identities).expand(features.shape[0], -1, -1)
        found = []
        for layer in self.layers:
            queries = layer(queries, identities, features, places)
            found.append(queries)
        return found if self.training else found[-1:]

    def read(self, queries: Tensor, pixels: Tensor, size: tuple[int, int]) -> QueryOutput:
        """Classes of queries ``(B, Q, C)``, and their masks over pixels with embeddings ``(B, C, h, w)``."""
        queries = self.norm(queries)
        masks = self.mask_embed(queries) @ pixels.flatten(2)
        return QueryOutput(self.class_embed(queries), masks.unflatten(2, pixels.shape[-2:]), size=size)

    def classifiers(self) -> list[nn.Module]:
        return [self.class_embed]

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"query_embed.weight"}

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        return encoder_groups(self.encoder, self.encoder_rate)

    def translate(self, key: str) -> str:
        return translate(self, key, super().translate(key))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return joined_projections(state)


def encoder_groups(encoder: Encoder, rate: float) -> list[dict[str, Any]] | None:
    """The encoder's parameters at ``rate``, those that have groups of their own (layer-wise decay) at their share of
    it.
    """
    own = encoder.parameter_groups()
    grouped = {id(parameter) for group in own for parameter in group["params"]}
    rest = [parameter for parameter in encoder.parameters() if id(parameter) not in grouped]
    groups = [{**group, "lr_factor": rate * group["lr_factor"]} for group in own]
    return [*groups, {"params": rest, "lr_factor": rate}] if rate != 1 else groups or None


def translate(model: Model, key: str, otherwise: str) -> str:
    """Our name of a tensor of transformers' MaskFormer or Mask2Former; of the encoder's tensors by the encoder."""
    prefix = "model.pixel_level_module.encoder."
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder) or not key.startswith(prefix):
        return otherwise
    return f"encoder.{encoder.translate(renamed(key.removeprefix(prefix), ((r'^model[.]', ''),)))}"


LOSSES: Mapping[str, Any] = {"mask_classification": 1.0}
RESNET: dict[str, Any] = {
    "losses": LOSSES,
    "auxiliary_weights": (1.0,),
    "least_classes": 1,
    "num_classes": 150,
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "schedule": "polynomial",
    "batch_size": 16,
}  # section 4.1, ADE20K
SWIN: dict[str, Any] = {**RESNET, "lr": 6e-5, "weight_decay": 0.01}
WINDOW_12: Mapping[str, Any] = {"window": 12}
"""Options of the larger Swins, which are pretrained at 384 pixels."""


@register_model(
    "maskformer_r50",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance", "semantic"),
        parameters=41_307_863,
        gmac=48.54,
        source="transformers 5.23 MaskFormerForInstanceSegmentation, counted; mmdetection 3.3 the same",
        result="ADE20K val: mIoU 44.5 (authors' release)",
        **RESNET,
    ),
)
def maskformer_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50"), queries: int = 100
) -> MaskFormer:
    """ResNet-50, which learns at a tenth of the rate."""
    return MaskFormer(body.build(in_channels), num_classes, queries, encoder_rate=0.1)


@register_model(
    "maskformer_swin_t",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance", "semantic"),
        parameters=41_757_009,
        gmac=50.68,
        source="mmdetection 3.3, counted; transformers 5.23 has a norm of the last map more, which nothing reads",
        result="ADE20K val: mIoU 46.7; COCO panoptic val: PQ 47.7 (authors' release)",
        **SWIN,
    ),
)
def maskformer_swin_t(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_tiny"), queries: int = 100
) -> MaskFormer:
    """Swin-T."""
    return MaskFormer(body.build(in_channels), num_classes, queries)


@register_model(
    "maskformer_swin_s",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance", "semantic"),
        parameters=63_074_913,
        gmac=74.4,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 63 M",
        result="ADE20K val: mIoU 49.8; COCO panoptic val: PQ 49.7 (authors' release)",
        **SWIN,
    ),
)
def maskformer_swin_s(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_small"), queries: int = 100
) -> MaskFormer:
    """Swin-S."""
    return MaskFormer(body.build(in_channels), num_classes, queries)


@register_model(
    "maskformer_swin_b",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance", "semantic"),
        parameters=101_829_391,
        size=(640, 640),
        gmac=187.94,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 102 M",
        result="ADE20K val: mIoU 52.7; COCO panoptic val: PQ 51.8 (authors' release, pretrained on ImageNet-22K)",
        **SWIN,
    ),
)
def maskformer_swin_b(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_base", options=WINDOW_12), queries: int = 100
) -> MaskFormer:
    """Swin-B with windows of 12."""
    return MaskFormer(body.build(in_channels), num_classes, queries)


@register_model(
    "maskformer_swin_l",
    Card(
        PAPER,
        2021,
        tasks=("panoptic", "instance", "semantic"),
        parameters=211_575_627,
        size=(640, 640),
        gmac=367.52,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 212 M",
        result="ADE20K val: mIoU 54.1; COCO panoptic val: PQ 52.7 (authors' release, pretrained on ImageNet-22K)",
        **SWIN,
    ),
)
def maskformer_swin_l(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_large", options=WINDOW_12), queries: int = 100
) -> MaskFormer:
    """Swin-L with windows of 12."""
    return MaskFormer(body.build(in_channels), num_classes, queries)

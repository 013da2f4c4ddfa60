"""Mask2Former (Cheng et al.: Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022, arXiv
2112.01527).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.layers.blocks import check_positive, resize
from segmodels.layers.names import Names
from segmodels.layers.pixel_decoders import LEVELS, DeformablePixelDecoder
from segmodels.layers.positions import sine_positions
from segmodels.layers.query_decoder import TRANSFORMERS, QueryLayer, joined_projections, mlp
from segmodels.models.base import Model
from segmodels.models.maskformer import WINDOW_12, encoder_groups, translate
from segmodels.models.registry import Card, register_model
from segmodels.outputs import QueryOutput

PAPER = "Cheng et al.: Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022, arXiv 2112.01527"
STRIDES = (4, 8, 16, 32)


class Mask2Former(Model):
    """Encoder with maps at strides 4 to 32, pixel decoder, and learned queries that look at one map after the other,
    coarse to fine and again, each only where its own mask of the layer before lies (section 3.2).

    Masks are at stride 4. In training ``auxiliary`` holds what the queries say before the first layer and after each
    layer but the last. Any input size; exported programs take images of one size, because the pixels of three maps are
    one sequence, and ``torch.export.load`` takes minutes to read the sums of three maps' unknown sizes.

    Args:
        queries: how many segments an image can have; the paper's largest models have 200 for COCO.
        layers: of the transformer decoder, a multiple of 3 for whole rounds over the maps.
        encoder_rate: learning rate of the encoder over that of the rest.
    """

    published: ClassVar[Names] = (
        (r"^model\.pixel_level_module\.decoder\.input_projections\.", "pixel_decoder.input_proj."),
        (r"^model\.pixel_level_module\.decoder\.encoder\.layers\.", "pixel_decoder.layers."),
        (r"^model\.pixel_level_module\.decoder\.adapter_1\.", "pixel_decoder.lateral."),
        (r"^model\.pixel_level_module\.decoder\.layer_1\.", "pixel_decoder.output."),
        (r"^model\.pixel_level_module\.decoder\.mask_projection\.", "pixel_decoder.mask_features."),
        (r"^model\.pixel_level_module\.decoder\.level_embed$", "pixel_decoder.level_embed"),
        (r"^(pixel_decoder\.(input_proj\.\d|lateral|output))\.0\.", r"\1.conv."),
        (r"^(pixel_decoder\.(input_proj\.\d|lateral|output))\.1\.", r"\1.norm."),
        (r"^(pixel_decoder\.layers\.\d)\.final_layer_norm\.", r"\1.norm2."),
        (r"^model\.transformer_module\.queries_embedder\.", "query_embed."),
        (r"^model\.transformer_module\.queries_features\.", "query_feat."),
        (r"^model\.transformer_module\.level_embed\.", "level_embed."),
        (r"^model\.transformer_module\.decoder\.layernorm\.", "norm."),
        *(
            (rf"^model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.{i}\.0\.", f"mask_embed.{2 * i}.")
            for i in range(3)
        ),
        (r"^model\.transformer_module\.decoder\.", ""),
        (r"^class_predictor\.", "class_embed."),
        *TRANSFORMERS,
    )
    unread: ClassVar[tuple[str, ...]] = ("criterion.", "encoder.layernorm.")

    exportable_sizes: ClassVar[bool] = False

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        queries: int = 100,
        channels: int = 256,
        mask_channels: int = 256,
        pixel_layers: int = 6,
        layers: int = 9,
        hidden: tuple[int, int] = (1024, 2048),
        encoder_rate: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive("queries", queries)
        self.encoder_rate = encoder_rate
        self.encoder = encoder
        widths = encoder.channels_at(STRIDES)
        self.pixel_decoder = DeformablePixelDecoder(widths, channels, mask_channels, pixel_layers, hidden[0])
        self.level_embed = nn.Embedding(LEVELS, channels)
        self.query_feat = nn.Embedding(queries, channels)
        self.query_embed = nn.Embedding(queries, channels)
        self.layers = nn.ModuleList(QueryLayer(channels, 8, hidden[1], image_first=True) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = mlp(channels, channels, channels, mask_channels)

    def forward(self, images: Tensor, guide: Any = None) -> QueryOutput:
        pixels, levels = self.pixel_decoder(self.encoder.maps(images, STRIDES))
        size = (images.shape[2], images.shape[3])
        *earlier, last = self.decode(pixels, levels, size)
        return last._replace(auxiliary=tuple(earlier) if self.training else ())

    def decode(self, pixels: Tensor, levels: Sequence[Tensor], size: tuple[int, int]) -> list[QueryOutput]:
        """Outputs of the learned queries, and after every layer."""
        places = [sine_positions(x) for x in levels]
        features = [x.flatten(2).transpose(1, 2) + own for x, own in zip(levels, self.level_embed.weight, strict=True)]
        queries = self.query_feat.weight.repeat(pixels.shape[0], 1, 1)
        outputs = [self.read(queries, pixels, size)]
        for i, layer in enumerate(self.layers):
            level = i % LEVELS
            mask = visible(outputs[-1].mask_logits, levels[level].shape[-2:])
            queries = layer(queries, self.query_embed.weight, features[level], places[level], mask)
            outputs.append(self.read(queries, pixels, size))
        return outputs

    def read(self, queries: Tensor, pixels: Tensor, size: tuple[int, int]) -> QueryOutput:
        """Classes of queries ``(B, Q, C)``, and their masks over pixels with embeddings ``(B, C, h, w)``."""
        queries = self.norm(queries)
        masks = self.mask_embed(queries) @ pixels.flatten(2)
        return QueryOutput(self.class_embed(queries), masks.unflatten(2, pixels.shape[-2:]), size=size)

    def classifiers(self) -> list[nn.Module]:
        return [self.class_embed]

    def no_weight_decay(self) -> set[str]:
        embeddings = {"query_feat.weight", "query_embed.weight", "level_embed.weight", "pixel_decoder.level_embed"}
        return super().no_weight_decay() | embeddings

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        return encoder_groups(self.encoder, self.encoder_rate)

    def translate(self, key: str) -> str:
        return translate(self, key, super().translate(key))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return joined_projections(state)


@torch.no_grad()
def visible(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Where each query may look: pixels of its mask ``(B, Q, H, W)`` at another size, everywhere if it has none; bool
    ``(B, 1, Q, h * w)``.
    """
    inside = resize(mask_logits.detach(), size).flatten(2) >= 0
    return (inside | ~inside.any(dim=2, keepdim=True))[:, None]


LOSSES: Mapping[str, Any] = {
    "mask_classification": {
        "class_weight": 2.0,
        "mask_weight": 5.0,
        "dice_weight": 5.0,
        "mask_loss": "bce",
        "points": 12544,
    }
}  # section 3.2.3 and 4.1
RECIPE: dict[str, Any] = {
    "losses": LOSSES,
    "auxiliary_weights": (1.0,),
    "least_classes": 1,
    "num_classes": 150,
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 0.05,
    "schedule": "polynomial",
    "batch_size": 16,
}  # section 4.1


@register_model(
    "mask2former_r50",
    Card(
        PAPER,
        2022,
        tasks=("panoptic", "instance", "semantic"),
        parameters=44_041_367,
        gmac=66.33,
        source="transformers 5.23 Mask2FormerForUniversalSegmentation, counted; the paper's 44 M",
        result="COCO panoptic val: PQ 51.9; COCO instance val: AP 43.7; ADE20K val: mIoU 47.2 (authors' release)",
        **RECIPE,
    ),
)
def mask2former_r50(
    num_classes: int, in_channels: int = 3, body: Body = Body("resnet50"), queries: int = 100
) -> Mask2Former:
    """ResNet-50."""
    return Mask2Former(body.build(in_channels), num_classes, queries)


@register_model(
    "mask2former_swin_t",
    Card(
        PAPER,
        2022,
        tasks=("panoptic", "instance", "semantic"),
        parameters=47_439_633,
        gmac=69.23,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 47 M",
        result="COCO panoptic val: PQ 53.2; COCO instance val: AP 45.0; ADE20K val: mIoU 47.7 (authors' release)",
        **RECIPE,
    ),
)
def mask2former_swin_t(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_tiny"), queries: int = 100
) -> Mask2Former:
    """Swin-T."""
    return Mask2Former(body.build(in_channels), num_classes, queries)


@register_model(
    "mask2former_swin_s",
    Card(
        PAPER,
        2022,
        tasks=("panoptic", "instance", "semantic"),
        parameters=68_757_537,
        gmac=92.94,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 69 M",
        result="COCO panoptic val: PQ 54.6; COCO instance val: AP 46.3; ADE20K val: mIoU 51.3 (authors' release)",
        **RECIPE,
    ),
)
def mask2former_swin_s(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_small"), queries: int = 100
) -> Mask2Former:
    """Swin-S."""
    return Mask2Former(body.build(in_channels), num_classes, queries)


@register_model(
    "mask2former_swin_b",
    Card(
        PAPER,
        2022,
        tasks=("panoptic", "instance", "semantic"),
        parameters=106_922_191,
        size=(640, 640),
        gmac=216.32,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 107 M",
        result=(
            "COCO panoptic val: PQ 56.4; COCO instance val: AP 48.1; ADE20K val: mIoU 53.9 (authors' release,"
            " pretrained on ImageNet-22K)"
        ),
        **RECIPE,
    ),
)
def mask2former_swin_b(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_base", options=WINDOW_12), queries: int = 100
) -> Mask2Former:
    """Swin-B with windows of 12."""
    return Mask2Former(body.build(in_channels), num_classes, queries)


@register_model(
    "mask2former_swin_l",
    Card(
        PAPER,
        2022,
        tasks=("panoptic", "instance", "semantic"),
        parameters=215_488_779,
        size=(640, 640),
        gmac=395.43,
        source="transformers 5.23 without the norm of the last map, counted; the paper's 215 M",
        result=(
            "COCO panoptic val: PQ 57.8; COCO instance val: AP 50.1 (200 queries); ADE20K val: mIoU 56.1 (authors'"
            " release, pretrained on ImageNet-22K)"
        ),
        **RECIPE,
    ),
)
def mask2former_swin_l(
    num_classes: int, in_channels: int = 3, body: Body = Body("swin_large", options=WINDOW_12), queries: int = 100
) -> Mask2Former:
    """Swin-L with windows of 12; the paper has 200 ``queries`` for COCO."""
    return Mask2Former(body.build(in_channels), num_classes, queries)

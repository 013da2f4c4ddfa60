"""Segment Anything (Kirillov et al.: Segment Anything, ICCV 2023, arXiv 2304.02643).

The keys are those of the authors' release (segment-anything 1.0); its files and those of transformers load.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.encoders.sam_vit import SamMLP, SamViT
from segmodels.errors import InputError
from segmodels.layers.attention import attend
from segmodels.layers.blocks import ChannelNorm, check_images
from segmodels.layers.names import Names, renamed
from segmodels.models.base import PromptableModel
from segmodels.models.registry import Card, register_model
from segmodels.object_reading import Frame
from segmodels.outputs import Choices, PromptedOutput
from segmodels.prompts import NO_CLICK, Prompts

PAPER = "Kirillov et al.: Segment Anything, ICCV 2023, arXiv 2304.02643"

TRANSFORMERS: Names = (
    (r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
     "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    *(
        (rf"^prompt_encoder\.mask_embed\.{theirs}\.", f"prompt_encoder.mask_downscaling.{ours}.")
        for theirs, ours in (("conv1", 0), ("layer_norm1", 1), ("conv2", 3), ("layer_norm2", 4), ("conv3", 6))
    ),
    *(
        (rf"^mask_decoder\.{theirs}\.", f"mask_decoder.output_upscaling.{ours}.")
        for theirs, ours in (("upscale_conv1", 0), ("upscale_layer_norm", 1), ("upscale_conv2", 3))
    ),
    (r"^(mask_decoder\.transformer\.layers\.\d)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    # their proj_in, layers.0, proj_out are three layers in a row
    (r"^(mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.\d))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.\d))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.\d))\.proj_out\.", r"\1.layers.2."),
)  # fmt: skip


class FourierPositions(nn.Module):
    """Places as sines and cosines of fixed random frequencies (Tancik 2020, 2006.10739): x and y ``(..., 2)`` as shares
    of the image to ``(..., C)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # a parameter that does not train, so that checkpoints hold it and counts include it
        frequencies = torch.randn(2, channels // 2)
        self.positional_encoding_gaussian_matrix = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, places: Tensor) -> Tensor:
        across, down = self.positional_encoding_gaussian_matrix
        x, y = (2 * places - 1).split(1, dim=-1)
        angles = 2 * math.pi * (x * across + y * down)  # no matrix product, which autocast would round
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Of the centres of a map's cells, ``(height * width, C)``."""
        device = self.positional_encoding_gaussian_matrix.device
        rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return self(torch.stack([x, y], dim=2)).flatten(0, 1)


class PromptEncoder(nn.Module):
    """Clicks and boxes to tokens, masks to maps (section 3, "Prompt encoder").

    Args:
        channels: of tokens and maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(channels)
        # beside the object, on it, upper left and lower right corner of a box
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, 2),
            ChannelNorm(16),
            nn.GELU(),
            nn.Conv2d(16, channels, 1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def tokens(self, points: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(N, P + 3, C)`` of clicks, of "no further point" where there is no box, and of the corners of a box;
        and which of them the object has, bool ``(N, P + 3)``.

        Args:
            points: ``(N, P, 2)`` x and y as shares of the image.
            labels: ``(N, P)``, see ``Prompts``.
            boxes: ``(N, 4)`` as shares of the image, NaN where there is none.
        """
        clicked, boxed = labels != NO_CLICK, ~boxes.isnan().any(dim=1, keepdim=True)
        beside, on, first, last = (self.point_embeddings.get_parameter(f"{i}.weight") for i in range(4))
        clicks = self.pe_layer(points) + torch.where((labels == 1)[..., None], on, beside)
        corners = self.pe_layer(boxes.nan_to_num().unflatten(1, (2, 2))) + torch.cat([first, last])
        end = self.not_a_point_embed.weight.expand(len(points), 1, -1)
        ended = clicked.any(dim=1, keepdim=True) & ~boxed
        return torch.cat([clicks, end, corners], dim=1), torch.cat([clicked, ended, boxed, boxed], dim=1)

    def masks(self, masks: Tensor | None) -> Tensor:
        """Maps ``(N, C, h / 4, w / 4)`` of masks ``(N, h, w)``; without any ``(1, C, 1, 1)``."""
        if masks is None:
            return self.no_mask_embed.weight[:, :, None, None]
        return self.mask_downscaling(masks[:, None])


class DownAttention(nn.Module):
    """Multi-head attention in fewer channels: ``(B, N, C)`` to ``(B, M, C)``."""

    def __init__(self, channels: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out_proj(attend(self.q_proj(query), self.k_proj(key), self.v_proj(value), self.heads, mask))


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the map, pass an MLP, and the map attends to them (appendix A, figure 14).

    Args:
        first: the tokens have no positions yet, and no shortcut.
    """

    def __init__(self, channels: int, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = DownAttention(channels, channels, heads)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.cross_attn_token_to_image = DownAttention(channels, channels // 2, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = SamMLP(channels, hidden, nn.ReLU)
        self.norm3 = nn.LayerNorm(channels, eps=1e-6)
        self.norm4 = nn.LayerNorm(channels, eps=1e-6)
        self.cross_attn_image_to_token = DownAttention(channels, channels // 2, heads)

    def forward(
        self, tokens: Tensor, map: Tensor, prompts: Tensor, places: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``TwoWayTransformer``; ``prompts`` are the tokens as they were before the first block."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, known)
        else:
            placed = tokens + prompts
            tokens = tokens + self.self_attn(placed, placed, tokens, known)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, map + places, map))
        tokens = self.norm3(tokens + self.mlp(tokens))
        map = self.norm4(map + self.cross_attn_image_to_token(map + places, tokens + prompts, tokens, known))
        return tokens, map


class TwoWayTransformer(nn.Module):
    """Tokens ``(N, T, C)`` and maps ``(N, h * w, C)`` that have attended to each other."""

    def __init__(self, channels: int, heads: int, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(channels, heads, hidden, first=i == 0) for i in range(layers))
        self.final_attn_token_to_image = DownAttention(channels, channels // 2, heads)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, map: Tensor, places: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """``places``: positions of the map's cells; ``known``: bool ``(N, T)``, the tokens that others see."""
        prompts, known = tokens, known[:, None, None]
        for layer in self.layers:
            tokens, map = layer(tokens, map, prompts, places, known)
        seen = self.final_attn_token_to_image(tokens + prompts, map + places, map)
        return self.norm_final_attn(tokens + seen), map


class TokenMLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, channels: int, hidden: int, out: int, layers: int = 3) -> None:
        super().__init__()
        sizes = [channels, *[hidden] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Four masks for each prompt, the first for several prompts together, and an estimate of each one's IoU (section 3,
    "Mask decoder").

    Args:
        channels: of tokens and maps.
        heads: of all attention.
        hidden: channels inside the MLP of the transformer.
    """

    MASKS: ClassVar[int] = 4

    def __init__(self, channels: int, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(channels, heads, hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(self.MASKS, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, 2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            TokenMLP(channels, channels, channels // 8) for _ in range(self.MASKS)
        )
        self.iou_prediction_head = TokenMLP(channels, channels, self.MASKS)

    def forward(
        self, map: Tensor, places: Tensor, prompts: Tensor, known: Tensor, masks: int = MASKS
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(N, masks, 4 h, 4 w)`` and estimated IoU ``(N, masks)`` of the first ``masks`` masks.

        Args:
            map: ``(N, C, h, w)``.
            places: ``(h * w, C)``.
            prompts: tokens ``(N, T, C)``, of which the object has those that are ``known`` ``(N, T)``.
        """
        size = map.shape[2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(prompts), -1, -1)
        known = torch.cat([torch.ones_like(own[..., 0], dtype=torch.bool), known], dim=1)
        tokens, cells = self.transformer(
            torch.cat([own, prompts], dim=1), map.flatten(2).transpose(1, 2), places, known
        )
        fine = self.output_upscaling(cells.transpose(1, 2).unflatten(2, size))
        filters = torch.stack(
            [layer(tokens[:, 1 + i]) for i, layer in enumerate(self.output_hypernetworks_mlps[:masks])], dim=1
        )
        logits = (filters @ fine.flatten(2)).unflatten(2, fine.shape[2:])
        return logits, self.iou_prediction_head(tokens[:, 0])[:, :masks]


class SAM(PromptableModel):
    """Images of any size: the longer side is resized to ``image_encoder.image_size``, the rest of the square is filled
    with 0, the mean colour, at the right or at the bottom. Masks have a quarter of the square's resolution.

    A single click or box without an earlier mask gets three masks, of which the one of the best estimated IoU is the
    answer; further prompts leave no doubt, and get one (appendix A, "Making the model ambiguity-aware").
    """

    takes: ClassVar[frozenset[str]] = frozenset({"boxes", "masks"})

    def __init__(self, image_encoder: SamViT, heads: int = 8, hidden: int = 2048, passes: int = 9) -> None:
        super().__init__()
        channels = image_encoder.channels[0]
        if channels % (2 * heads):
            raise InputError(f"out_channels of SAM's encoder is {channels}, expected a multiple of {2 * heads}")
        if passes < 1:
            raise InputError(f"passes of SAM is {passes}, expected at least 1, the answer to the first prompt")
        self.passes = passes
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(channels)
        self.mask_decoder = MaskDecoder(channels, heads, hidden)

    def encode(self, images: Tensor) -> tuple[Tensor, Frame, tuple[float, float]]:
        """Maps ``(B, C, h, w)`` of the square, the images' place in it, and by how much they were enlarged (across,
        down).
        """
        check_images(images, self.image_encoder.in_channels)
        side = self.image_encoder.image_size
        height, width = images.shape[-2:]
        scale = side / max(height, width)
        frame = Frame(side, max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))
        if (height, width) != frame[1:]:
            images = functional.interpolate(images, frame[1:], mode="bilinear", align_corners=False, antialias=True)
        images = functional.pad(images, (0, side - frame.width, 0, side - frame.height))
        (embedding,) = self.image_encoder(images)
        return embedding, frame, (frame.width / width, frame.height / height)

    def decode(self, embedding: tuple[Tensor, Frame, tuple[float, float]], prompts: Prompts) -> PromptedOutput:
        maps, frame, scale = embedding
        counts = [len(points) for points in prompts.points]
        shares = maps.new_tensor(scale) / frame.side
        points, labels = torch.cat(prompts.points) * shares, torch.cat(prompts.labels)
        boxes = (
            torch.cat(prompts.boxes) * shares.repeat(2)
            if prompts.boxes
            else points.new_full((len(points), 4), math.nan)
        )
        if self.training or not sum(counts):
            maps = maps + 0 * self._reached()  # a gradient for every parameter, whatever the prompts are
        if not sum(counts):
            nothing = maps[0, 0] * maps.new_zeros(0, 1, 1)
            return PromptedOutput(
                tuple(nothing for _ in counts), tuple(nothing.sum(dim=(1, 2)) for _ in counts), frame=frame
            )
        tokens, known = self.prompt_encoder.tokens(points, labels, boxes)
        places = self.prompt_encoder.pe_layer.grid(maps.shape[2], maps.shape[3])
        of_objects = torch.cat([own.expand(count, -1, -1, -1) for own, count in zip(maps, counts, strict=True)])
        earlier = torch.cat(prompts.masks) if prompts.masks else None
        of_objects = of_objects + self.prompt_encoder.masks(earlier)
        if earlier is not None:
            logits, quality = self.mask_decoder(of_objects, places, tokens, known, masks=1)
            return PromptedOutput(logits[:, 0].split(counts), quality[:, 0].split(counts), frame=frame)
        logits, quality = self.mask_decoder(of_objects, places, tokens, known)
        single = known.sum(dim=1, keepdim=True) <= 2  # a click and the end of clicks, or the two corners of a box
        allowed = torch.cat([~single, single.expand(-1, MaskDecoder.MASKS - 1)], dim=1)
        best = quality.masked_fill(~allowed, -math.inf).argmax(dim=1, keepdim=True)
        chosen = logits.take_along_dim(best[..., None, None], dim=1)[:, 0]
        choices = zip(logits.split(counts), quality.split(counts), allowed.split(counts), strict=True)
        return PromptedOutput(
            chosen.split(counts),
            quality.gather(1, best)[:, 0].split(counts),
            tuple(Choices(*own) for own in choices),
            frame,
        )

    def _reached(self) -> Tensor:
        parts = (*self.prompt_encoder.parameters(), *self.mask_decoder.parameters())
        return torch.stack([parameter.sum() for parameter in parts if parameter.requires_grad]).sum()

    def translate(self, key: str) -> str:
        """The names of transformers."""
        if key.startswith("vision_encoder."):
            return f"image_encoder.{self.image_encoder.translate(key.removeprefix('vision_encoder.'))}"
        return renamed(key, TRANSFORMERS)

    def no_weight_decay(self) -> set[str]:
        embeddings = (name for name, module in self.named_modules() if isinstance(module, nn.Embedding))
        return super().no_weight_decay() | {f"{name}.weight" for name in embeddings}


RECIPE: dict[str, Any] = {
    "losses": {"prompted_masks": 1.0},
    "learner": "interactive",
    "least_classes": 1,
    "num_classes": 1,
}
TRAINING: dict[str, Any] = {
    "size": (1024, 1024),
    "source": "segment-anything 1.0; transformers 5.23 counts the 256 fixed position frequencies too",
    "optimizer": "adamw",
    "lr": 8e-4,
    "weight_decay": 0.1,
    "batch_size": 256,
    **RECIPE,
}  # appendix A, "Training recipe"


@register_model("sam_b", Card(PAPER, 2023, tasks=("promptable",), parameters=93_735_472, gmac=487.87, **TRAINING))
def sam_b(num_classes: int, in_channels: int = 3, body: Body = Body("sam_vit_base")) -> SAM:
    """Segment Anything with ViT-B."""
    return _sam(num_classes, in_channels, body)


@register_model("sam_l", Card(PAPER, 2023, tasks=("promptable",), parameters=312_342_832, gmac=1494.67, **TRAINING))
def sam_l(num_classes: int, in_channels: int = 3, body: Body = Body("sam_vit_large")) -> SAM:
    """Segment Anything with ViT-L."""
    return _sam(num_classes, in_channels, body)


@register_model("sam_h", Card(PAPER, 2023, tasks=("promptable",), parameters=641_090_608, gmac=2982.37, **TRAINING))
def sam_h(num_classes: int, in_channels: int = 3, body: Body = Body("sam_vit_huge")) -> SAM:
    """Segment Anything with ViT-H."""
    return _sam(num_classes, in_channels, body)


@register_model(
    "sam_tiny",
    Card(
        PAPER,
        2023,
        tasks=("promptable",),
        size=(128, 128),
        parameters=3_768_704,
        gmac=0.21,
        source="own count",
        **RECIPE,
    ),
)
def sam_tiny(num_classes: int, in_channels: int = 3, body: Body = Body("sam_vit_tiny"), passes: int = 3) -> SAM:
    """Segment Anything for small images and machines: 6 blocks of 192 channels, images of 128 pixels.

    Args:
        passes: of the decoder for each batch in training.
    """
    return _sam(num_classes, in_channels, body, hidden=512, passes=passes)


def _sam(num_classes: int, in_channels: int, body: Body, **decoder: int) -> SAM:
    del num_classes  # a mask is of the object or not
    encoder: Encoder = body.build(in_channels, output_stride=16)
    if not isinstance(encoder, SamViT):
        raise InputError(f"encoder of SAM is {body.encoder!r}, expected one of sam_vit_tiny, _base, _large and _huge")
    return SAM(encoder, **decoder)

"""Segment Anything (Kirillov et al.: Segment Anything, ICCV 2023, arXiv 2304.02643).

The keys are those of the authors' release (segment-anything 1.0); its files and those of transformers load.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.device import constant
from segmodels.encoders.base import Encoder
from segmodels.encoders.body import Body
from segmodels.encoders.sam_vit import SamViT
from segmodels.errors import InputError
from segmodels.layers.blocks import check_images
from segmodels.layers.mask_decoder import MaskDecoder
from segmodels.layers.names import Names, renamed
from segmodels.layers.prompt_encoder import PromptEncoder
from segmodels.models.base import PromptableModel
from segmodels.models.registry import Card, register_model
from segmodels.object_reading import Frame
from segmodels.outputs import Choices, PromptedOutput
from segmodels.prompts import Prompts

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
        shares = constant(scale, maps.device, maps.dtype) / frame.side
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
    "source": (
        "segment-anything 1.0; transformers 5.23 counts the 256 fixed position frequencies too; GMAC without the"
        " padding of windows"
    ),
    "optimizer": "adamw",
    "lr": 8e-4,
    "weight_decay": 0.1,
    "batch_size": 256,
    **RECIPE,
}  # appendix A, "Training recipe"


@register_model("sam_b", Card(PAPER, 2023, tasks=("promptable",), parameters=93_735_472, gmac=472.69, **TRAINING))
def sam_b(num_classes: int, in_channels: int = 3, body: Body = Body("sam_vit_base")) -> SAM:
    """Segment Anything with ViT-B."""
    return _sam(num_classes, in_channels, body)


@register_model("sam_l", Card(PAPER, 2023, tasks=("promptable",), parameters=312_342_832, gmac=1427.22, **TRAINING))
def sam_l(num_classes: int, in_channels: int = 3, body: Body = Body("sam_vit_large")) -> SAM:
    """Segment Anything with ViT-L."""
    return _sam(num_classes, in_channels, body)


@register_model("sam_h", Card(PAPER, 2023, tasks=("promptable",), parameters=641_090_608, gmac=2834.83, **TRAINING))
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

"""PSANet (Zhao et al.: PSANet: Point-wise Spatial Attention Network for Scene Parsing, ECCV 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmodels.encoders.body import DEEP_STEM, Body
from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct, resize
from segmodels.layers.heads import FCNHead
from segmodels.models.dilated import DilatedModel
from segmodels.models.registry import Card, register_model

PAPER = "Zhao et al.: PSANet: Point-wise Spatial Attention Network for Scene Parsing, ECCV 2018"


def psa_mask(maps: Tensor, mask_size: int) -> Tensor:
    """Attention between positions from over-complete maps, in which a position's attention lies centred on itself
    (section 3).

    ``(B, mask_size², h, w)`` to ``(B, h * w, h * w)``: entry (i, j) is the attention that the map of position j has
    for position i, and 0 where i is out of the map's reach, more than (mask_size - 1) / 2 rows or columns away: so any
    map size works, as in the authors' code.
    """
    height, width = maps.shape[-2:]
    maps = maps.unflatten(1, (mask_size, mask_size))
    maps = _uncentred(maps, 1, height, 3)
    maps = _uncentred(maps, 2, width, 4)
    return maps.flatten(1, 2).flatten(2, 3)


def _uncentred(maps: Tensor, axis: int, size: int, own: int) -> Tensor:
    """Offsets along ``axis`` of five become positions 0..size-1; the position that they are offsets to runs along the
    axis ``own``.
    """
    positions = torch.arange(size, device=maps.device)
    offsets = positions[:, None] - positions + (maps.shape[axis] - 1) // 2
    index_shape = [1] * 5
    index_shape[axis] = index_shape[own] = size
    offsets = offsets.reshape(index_shape)
    shape = list(maps.shape)
    shape[axis] = size
    gathered = maps.gather(axis, offsets.clamp(0, maps.shape[axis] - 1).expand(shape))
    return gathered.masked_fill((offsets < 0) | (offsets >= maps.shape[axis]), 0)


class PSAHead(nn.Module):
    """Every position collects from all others and distributes to them, by attention that it predicts itself; then
    beside the map, 3x3, classes.

    Attention runs on the map halved (rounded up), which keeps it affordable.

    Args:
        mask_size: twice the longer side of the halved map of the training crop, minus 1, sees all of it: 97 for crops
            of 769, 59 for 473. An even size reaches one further down and to the right.
        mmseg_resampling: compute as mmseg does, for its weights: the projection is padded by 1, odd sizes are halved
            rounding down unless height and width both are odd, and then the resampling aligns corners.

    Raises:
        InputError: ``mask_size`` below 1.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 512,
        mask_size: int = 97,
        mmseg_resampling: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if mask_size < 1:
            raise InputError(
                f"mask_size is {mask_size}, expected at least 1: 97 sees all of a crop of 769 pixels, 59 of 473"
            )
        self.mask_size = mask_size
        self.mmseg_resampling = mmseg_resampling
        self.reduce = ConvNormAct(in_channels, channels, 1)
        self.attention = nn.Sequential(
            ConvNormAct(channels, channels, 1), nn.Conv2d(channels, mask_size**2, 1, bias=False)
        )
        self.reduce_p = ConvNormAct(in_channels, channels, 1)
        self.attention_p = nn.Sequential(
            ConvNormAct(channels, channels, 1), nn.Conv2d(channels, mask_size**2, 1, bias=False)
        )
        self.proj = ConvNormAct(2 * channels, in_channels, 1, padding=int(mmseg_resampling))
        self.bottleneck = ConvNormAct(2 * in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        size, align_corners = ((height + 1) // 2, (width + 1) // 2), False
        if self.mmseg_resampling:
            align_corners = bool(height % 2 and width % 2)
            size = size if align_corners else (height // 2, width // 2)
        collect = resize(self.reduce(x), size, align_corners=align_corners)
        distribute = resize(self.reduce_p(x), size, align_corners=align_corners)
        from_others = psa_mask(self.attention(collect), self.mask_size).softmax(dim=1)
        to_others = psa_mask(self.attention_p(distribute), self.mask_size).transpose(1, 2).softmax(dim=1)
        context = torch.cat([collect.flatten(2) @ from_others, distribute.flatten(2) @ to_others], dim=1).unflatten(
            2, size
        )
        context = resize(self.proj(context), (height, width), align_corners=align_corners)
        return self.conv_seg(self.dropout(self.bottleneck(torch.cat([x, context], dim=1))))


@register_model(
    "psanet_r50_d8",
    Card(
        PAPER,
        2018,
        parameters=59_138_694,
        num_classes=19,
        gmac=200.48,
        source="mmsegmentation 1.2.2 psanet_r50-d8, mask 97, counted; 200.76 GMAC with its padded projection",
        result="Cityscapes val: mIoU 77.24 (mmsegmentation)",
        optimizer="sgd",
        lr=0.01,
        weight_decay=1e-4,
        schedule="polynomial",
        batch_size=16,
    ),
)
def psanet_r50_d8(
    num_classes: int,
    in_channels: int = 3,
    body: Body = Body("resnet50", options=DEEP_STEM),
    output_stride: int = 8,
    mask_size: int = 97,
    mmseg_resampling: bool = False,
    auxiliary: bool = True,
) -> DilatedModel:
    """ResNet-50 with a deep stem at output stride 8; ``mask_size`` 97 for crops of 769, 59 for 473, 66 in mmseg for
    ADE20K; auxiliary weight 0.4.
    """
    encoder = body.build(in_channels, output_stride)
    head = PSAHead(encoder.channels[-1], num_classes, mask_size=mask_size, mmseg_resampling=mmseg_resampling)
    return DilatedModel(encoder, head, FCNHead(encoder.channels[-2], num_classes) if auxiliary else None)

"""UNet++: Zhou, Siddiquee, Tajbakhsh, Liang, DLMIA 2018, arXiv 1807.10165 (journal form arXiv 1912.05074).

Nodes X^{i,j}, depth i and column j: X^{i,0} is the encoder, X^{i,j} = H([X^{i,0}, …, X^{i,j-1}, Up(X^{i+1,j-1})]). Each
X^{0,1}, …, X^{0,4} has a head, so the trained network holds the smaller networks L1, …, L4: ``prune`` cuts one out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.encoders.body import Body
from segmodels.errors import InputError
from segmodels.layers.blocks import ConvNormAct, check_images, check_widths, relu
from segmodels.layers.padding import crop, pad_to_multiple
from segmodels.models.base import Model
from segmodels.models.encoder_unet import EncoderUNetPlusPlus, unet_plus_plus_resnet34
from segmodels.models.registry import Card, register_model
from segmodels.outputs import PixelOutput

PAPER = (
    "Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for Medical Image Segmentation. DLMIA 2018,"
    " arXiv 1807.10165"
)
WIDTHS = (32, 64, 128, 256, 512)


class UNetPlusPlus(Model):
    """The nodes with i + j <= ``level`` of a UNet++ that has ``len(widths)`` depths.

    In training ``logits`` are those of the last head and ``auxiliary`` those of the others, L1 first. In evaluation
    ``logits`` are the last head's ("fast"), or such that their softmax is the mean of all heads' ("accurate", section
    3.2).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        level: int | None = None,
        deep_supervision: bool = True,
        inference: str = "fast",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = check_widths(widths)
        self.level = _check_level(len(widths) - 1 if level is None else level, len(widths) - 1)
        if inference not in ("fast", "accurate"):
            raise InputError(
                f"inference is {inference!r}, expected 'fast' (last head) or 'accurate' (mean of all heads)"
            )
        if inference == "accurate" and not deep_supervision:
            raise InputError(
                "inference is 'accurate' without deep supervision, expected the heads it averages: set deep_supervision"
                " to true"
            )
        # what `prune` needs to build the smaller network
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "widths": widths,
            "inference": inference,
            "batch_norm": batch_norm,
        }
        self.in_channels = in_channels
        self.multiple = 2 ** (len(widths) - 1)  # also when pruned: the same padding gives the same bits
        self.inference = inference
        self.pool = nn.MaxPool2d(2)
        self.ups = nn.ModuleDict()
        self.nodes = nn.ModuleDict()
        for i, j in self._order():
            if j:
                self.ups[f"{i}_{j}"] = nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2)
            inputs = (j + 1) * widths[i] if j else ([in_channels, *widths])[i]
            self.nodes[f"{i}_{j}"] = _double_conv(inputs, widths[i], batch_norm)
        self.heads = nn.ModuleDict(
            {
                str(j): nn.Conv2d(widths[0], num_classes, 1)
                for j in range(1 if deep_supervision else self.level, self.level + 1)
            }
        )
        for module in self.modules():
            if isinstance(
                module, nn.Conv2d
            ):  # as in the authors' code; without normalisation a smaller start would fade through the depth
                nn.init.kaiming_normal_(module.weight)

    def _order(self) -> list[tuple[int, int]]:
        """(i, j) of all nodes such that what feeds a node comes before it: diagonal i + j = 0, 1, …, level; each from
        the encoder upwards.
        """
        return [(diagonal - j, j) for diagonal in range(self.level + 1) for j in range(diagonal + 1)]

    def forward(self, images: Tensor, guide: Any = None) -> PixelOutput:
        check_images(images, self.in_channels)
        maps: dict[tuple[int, int], Tensor] = {}
        for i, j in self._order():
            if j:
                inputs = torch.cat([*(maps[i, k] for k in range(j)), self.ups[f"{i}_{j}"](maps[i + 1, j - 1])], dim=1)
            else:
                inputs = self.pool(maps[i - 1, 0]) if i else pad_to_multiple(images, self.multiple)
            maps[i, j] = self.nodes[f"{i}_{j}"](inputs)
        needed = self.heads if self.training or self.inference == "accurate" else [str(self.level)]
        *auxiliary, logits = (crop(self.heads[j](maps[0, int(j)]), images.shape[2:]) for j in needed)
        if self.training or not auxiliary:
            return PixelOutput(logits, tuple(auxiliary))
        log_probabilities = torch.stack([head.log_softmax(dim=1) for head in (*auxiliary, logits)])
        return PixelOutput(log_probabilities.logsumexp(dim=0) - math.log(len(needed)))

    def classifiers(self) -> list[nn.Module]:
        return list(self.heads.values())[::-1]


def prune(model: UNetPlusPlus, level: int) -> UNetPlusPlus:
    """The network L``level`` inside a trained UNet++: X^{0,1..level} with their heads and what feeds them. A copy, in
    the mode and on the device of ``model``.

    In fast inference its logits equal, bit for bit, those of the full network's head ``level``.

    Raises:
        InputError: a level that the model does not hold, or a model without the head of that level (trained without
            deep supervision).
    """
    _check_level(level, model.level)
    if str(level) not in model.heads:
        raise InputError(
            f"level is {level}, but this UNet++ has no head there: train it with deep_supervision true to prune it"
        )
    with torch.device("meta"):
        pruned = UNetPlusPlus(**model.options, level=level, deep_supervision="1" in model.heads)
    weights = model.state_dict()
    pruned.load_state_dict({name: weights[name].clone() for name in pruned.state_dict()}, assign=True)
    return pruned.train(model.training)


def _check_level(level: int, deepest: int) -> int:
    if not 1 <= level <= deepest:
        raise InputError(f"level is {level}, expected 1 to {deepest}: the deepest column of the UNet++ to keep")
    return level


def _double_conv(in_channels: int, out_channels: int, batch_norm: bool) -> nn.Sequential:
    norm = nn.BatchNorm2d if batch_norm else None
    return nn.Sequential(
        *(ConvNormAct(i, out_channels, norm=norm, activation=relu) for i in (in_channels, out_channels))
    )


@register_model(
    "unet_plus_plus",
    Card(
        PAPER,
        2018,
        parameters=9_044_916,
        gmac=119.32,
        source="own count; the binary form has the paper's 9.04M",
        result="IoU: cell nuclei 92.6, colon polyp 33.5, liver 82.9, lung nodule 77.2 (paper)",
        losses={"cross_entropy": 0.5, "dice": 1.0},  # the paper's binary form for several classes
        auxiliary_weights=(1.0,),
    ),
)
def unet_plus_plus(
    num_classes: int,
    in_channels: int = 3,
    widths: Sequence[int] = WIDTHS,
    level: int | None = None,
    deep_supervision: bool = True,
    inference: str = "fast",
    batch_norm: bool = False,
    body: Body | None = None,
) -> UNetPlusPlus | EncoderUNetPlusPlus:
    """UNet++ as published: 32-512 channels, no normalisation, a head on every column.

    ``level`` 1 to 4 builds the pruned network; ``inference`` is "fast" or "accurate"; ``batch_norm`` adds the
    normalisation popular implementations have. ``encoder: NAME`` puts that encoder in the place of the first column:
    ``unet_plus_plus_resnet34`` on it.
    """
    if body is None:
        return UNetPlusPlus(num_classes, in_channels, widths, level, deep_supervision, inference, batch_norm)
    if (tuple(widths), level, deep_supervision, inference, batch_norm) != (WIDTHS, None, True, "fast", False):
        raise InputError(
            f"unet_plus_plus on encoder {body.encoder!r} got widths, level, deep_supervision, inference or batch_norm,"
            " which are of its own encoder: leave them out"
        )
    return unet_plus_plus_resnet34(num_classes, in_channels, body)

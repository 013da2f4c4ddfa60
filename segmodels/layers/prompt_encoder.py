"""The prompt encoder of Segment Anything (Kirillov 2023, 2304.02643): clicks, boxes and masks as vectors and maps. The
keys are those of the authors' release.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from segmodels.layers.blocks import ChannelNorm
from segmodels.prompts import NO_CLICK


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
        """Positions of the centres of a map's cells, ``(height * width, C)``."""
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

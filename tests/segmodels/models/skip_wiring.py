"""How far a skip reaches: the check that U-shaped models share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def unchanged_without_skip(model: nn.Module, level: int, skip_channels: int | None = None) -> list[bool]:
    """For each level of ``model.decoder``, coarsest first: whether its map stays the same when the skip of encoder
    level ``level`` is zeroed.

    The decoder's modules take (coarser map, skip) or, with ``skip_channels``, one tensor whose channels behind those
    are the skip's.
    """
    images = torch.randn(1, 3, 32, 32)
    maps: list[Tensor] = []
    for stage in model.decoder:
        stage.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    model(images)

    def without(_module: nn.Module, inputs: Sequence[Tensor]) -> object:
        if skip_channels is None:
            return inputs[0], torch.zeros_like(inputs[1])
        return torch.cat([inputs[0][:, :skip_channels], 0 * inputs[0][:, skip_channels:]], dim=1)

    levels = len(model.decoder)
    model.decoder[levels - 1 - level].register_forward_pre_hook(without)
    model(images)
    return [torch.equal(before, after) for before, after in zip(maps[:levels], maps[levels:], strict=True)]

"""The semantic branch of a feature pyramid against plain formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.layers.fpn import SemanticBranch


@pytest.mark.parametrize("sizes", [((16, 24), (8, 12), (4, 6), (2, 3)), ((17, 23), (9, 12), (5, 6), (3, 3))])
def test_coarse_maps_go_through_more_steps_and_all_are_added(sizes):
    torch.manual_seed(0)
    branch = SemanticBranch(4, 6, 4, lambda channels: nn.GroupNorm(2, channels)).eval()
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    maps = [torch.randn(2, 6, *size) for size in sizes]

    def step(x: torch.Tensor, level: int, index: int) -> torch.Tensor:
        layer = branch.levels[level][index]
        return F.relu(F.group_norm(F.conv2d(x, layer.conv.weight, padding=1), 2, layer.norm.weight, layer.norm.bias))

    expected = step(maps[0], 0, 0)
    expected = expected + F.interpolate(step(maps[1], 1, 0), sizes[0], mode="bilinear")
    once = F.interpolate(step(maps[2], 2, 0), sizes[1], mode="bilinear")
    expected = expected + F.interpolate(step(once, 2, 1), sizes[0], mode="bilinear")
    once = F.interpolate(step(maps[3], 3, 0), sizes[2], mode="bilinear")
    twice = F.interpolate(step(once, 3, 1), sizes[1], mode="bilinear")
    expected = expected + F.interpolate(step(twice, 3, 2), sizes[0], mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(branch(maps), expected, atol=1e-4, rtol=1e-4)

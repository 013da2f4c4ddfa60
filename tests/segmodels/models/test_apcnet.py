"""APCNet: affinities of positions to regions, and what they collect."""

import pytest
import torch
from torch.nn import functional as F

from segmodels.models.apcnet import AdaptiveContext, APCHead


@pytest.mark.parametrize("scale", [1, 2, 3, 6])
def test_affinities_are_sigmoids_of_every_position_for_every_region(scale):
    torch.manual_seed(0)
    module = AdaptiveContext(8, 4, scale).eval()
    x = torch.randn(2, 4, 7, 9)
    with torch.no_grad():
        affinity = module.affinity(x)
        image = module.global_info(x.mean(dim=(2, 3), keepdim=True))
        torch.testing.assert_close(affinity, torch.sigmoid(module.gla(x + image)))
    assert affinity.shape == (2, scale**2, 7, 9)
    assert (affinity.sum(dim=1) - 1).abs().max() > 0.01, "a softmax would make them add up to 1"


def test_every_position_collects_the_regions_by_its_affinities():
    torch.manual_seed(0)
    module = AdaptiveContext(8, 4, 3).eval()
    seen = {}
    module.residual_conv.register_forward_hook(lambda _module, inputs, _output: seen.update(context=inputs[0]))
    x = torch.randn(2, 8, 6, 7)
    with torch.no_grad():
        module(x)
        affinity = module.affinity(module.input_redu_conv(x))
        regions = module.pooled_redu_conv(F.adaptive_avg_pool2d(x, 3))
    for row in range(6):
        for column in range(7):
            expected = sum(
                affinity[:, 3 * i + j, row, column, None] * regions[:, :, i, j] for i in range(3) for j in range(3)
            )
            torch.testing.assert_close(seen["context"][:, :, row, column], expected, rtol=1e-4, atol=1e-5)


def test_scales_are_1_2_3_6_beside_the_map():
    head = APCHead(8, 2, channels=4)
    assert [module.scale for module in head.acm_modules] == [1, 2, 3, 6]
    assert head.bottleneck.conv.in_channels == 8 + 4 * 4

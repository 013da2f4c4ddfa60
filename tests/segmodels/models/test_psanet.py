"""PSANet: the mask against loops over positions, the size of its maps, mmseg's resampling."""

import pytest
import torch
from torch import nn

from segmodels.errors import InputError
from segmodels.models.analysis import count_gmac, count_parameters, on_meta
from segmodels.models.psanet import PSAHead, psa_mask
from segmodels.models.registry import create_model


@pytest.mark.parametrize(
    ("num_classes", "mask_size", "count", "gmac"),
    [
        (19, 97, 59_138_694, 200.76),
        (150, 66, 54_065_292, 195.74),
    ],  # mmseg's configuration for ADE20K has mask 66
)
def test_counts_of_the_reference(num_classes, mask_size, count, gmac):
    model, images = on_meta("psanet_r50_d8", num_classes, mask_size=mask_size, mmseg_resampling=True)
    assert count_parameters(model) == count
    assert round(count_gmac(model, images), 2) == gmac


def mask_by_loops(maps: torch.Tensor, mask_size: int) -> torch.Tensor:
    """Entry (i, j): position j's map, centred on j, at i; 0 beyond the map."""
    batch, _, height, width = maps.shape
    centre = (mask_size - 1) // 2
    result = maps.new_zeros(batch, height * width, height * width)
    for y in range(height):
        for x in range(width):
            for row in range(mask_size):
                for column in range(mask_size):
                    i, j = row + y - centre, column + x - centre
                    if 0 <= i < height and 0 <= j < width:
                        result[:, i * width + j, y * width + x] = maps[:, row * mask_size + column, y, x]
    return result


@pytest.mark.parametrize("mask_size", [1, 3, 4, 9, 13])  # smaller than the map, even, larger than it
@pytest.mark.parametrize("size", [(5, 5), (4, 7), (1, 6)])
def test_mask_is_that_of_loops_over_positions(mask_size, size):
    maps = torch.randn(2, mask_size**2, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(psa_mask(maps, mask_size), mask_by_loops(maps, mask_size))


def test_mask_sends_the_gradient_back_to_what_it_took():
    maps = torch.randn(1, 9, 4, 5, requires_grad=True)
    weights = torch.randn(1, 20, 20)
    (psa_mask(maps, 3) * weights).sum().backward()
    other = maps.detach().clone().requires_grad_()
    (mask_by_loops(other, 3) * weights).sum().backward()
    torch.testing.assert_close(maps.grad, other.grad)


def test_positions_collect_by_their_own_map_and_distribute_by_it():
    """With attention of one position on one other, collecting moves features there from here, distributing the other
    way.
    """
    head = PSAHead(4, 2, channels=3, mask_size=5).eval()
    seen = {}
    head.proj.register_forward_hook(lambda _module, inputs, _output: seen.update(context=inputs[0]))
    for attention in (
        head.attention,
        head.attention_p,
    ):  # every position attends to the one a row below and two columns to the right
        nn.init.zeros_(attention[1].weight)
        attention[1].register_forward_hook(
            lambda _module, _inputs, output: output.index_fill(1, torch.tensor([3 * 5 + 4]), 100.0)
        )
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        head(x)
        collect, distribute = (
            nn.functional.interpolate(reduce(x), (4, 4), mode="bilinear") for reduce in (head.reduce, head.reduce_p)
        )
    collected, distributed = seen["context"].split(3, dim=1)
    torch.testing.assert_close(collected[..., :3, :2], collect[..., 1:, 2:])
    torch.testing.assert_close(distributed[..., 1:, 2:], distribute[..., :3, :2])


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (9, 12), (1, 1)])
@pytest.mark.parametrize("mmseg_resampling", [False, True])
def test_any_map_size(size, mmseg_resampling):
    head = PSAHead(4, 2, channels=3, mask_size=5, mmseg_resampling=mmseg_resampling).eval()
    assert head(torch.randn(1, 4, *size)).shape == (1, 2, *size)


def test_an_impossible_mask_is_refused():
    with pytest.raises(InputError, match="mask_size is 0"):
        create_model("psanet_r50_d8", 2, mask_size=0)

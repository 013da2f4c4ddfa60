"""Deformable and switchable convolutions: torchvision 0.29's values (tests/fixtures/torchvision), and what they start
as.
"""

from __future__ import annotations

from pathlib import Path

import drawn
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from segmodels.layers.deformable_conv import deformable_conv
from segmodels.layers.switchable_conv import SwitchableConv2d

REFERENCE = np.load(Path(__file__).parents[2] / "fixtures" / "torchvision" / "deformable_conv.npz")


@pytest.mark.parametrize("case", drawn.DEFORMABLE)
def test_values_and_gradients_are_torchvisions(case: str) -> None:
    kernel, stride, padding, dilation, far, modulated = drawn.DEFORMABLE[case]
    inputs = {
        name: torch.tensor(values).requires_grad_()
        for name, values in drawn.deformable(kernel, stride, padding, dilation, far, modulated).items()
    }
    output = deformable_conv(**inputs, stride=stride, padding=padding, dilation=dilation)
    output.square().sum().backward()
    found = {"output": output.detach(), **{name: value.grad for name, value in inputs.items()}}
    for name, value in found.items():
        torch.testing.assert_close(value, torch.tensor(REFERENCE[f"{case}/{name}"]), rtol=1e-4, atol=1e-4)


def test_unmoved_points_are_a_plain_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 12, 9), (4, 3, 3, 3)))
    plain = functional.conv2d(x, weight, stride=2, padding=3, dilation=3)
    offsets = torch.zeros(2, 18, *plain.shape[2:])
    torch.testing.assert_close(deformable_conv(x, offsets, weight, (2, 2), (3, 3), (3, 3)), plain)


def test_half_precision_keeps_its_coordinates_and_no_offset_is_too_far() -> None:
    x = torch.arange(600.0)[None, None, None].expand(1, 1, 2, -1) % 4  # exact in bfloat16, columns beyond 256 are not
    offsets, weight = torch.zeros(1, 2, 2, 600), torch.ones(1, 1, 1, 1)
    offsets[:, 1] = 0.5
    half = [values.bfloat16() for values in (x, offsets, weight)]
    assert torch.equal(deformable_conv(*half).float(), deformable_conv(x, offsets, weight))
    offsets[0, 0, 0, :3] = torch.tensor([1e30, -1e30, float("inf")])
    assert deformable_conv(x, offsets, weight)[0, 0, 0, :2].tolist() == [0, 0]


def switchable(**options: int) -> tuple[nn.Conv2d, SwitchableConv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, bias=False, **options)
    return plain, SwitchableConv2d(plain)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 8)])
def test_a_switchable_convolution_starts_as_the_one_that_it_replaces(size: tuple[int, int]) -> None:
    plain, layer = switchable(stride=2, padding=1)
    x = torch.randn(2, 4, *size)
    torch.testing.assert_close(layer(x), plain(x))
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_the_switch_mixes_two_dilations_of_one_kernel() -> None:
    plain, layer = switchable(padding=2, dilation=2)
    x = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        layer.switch.bias.fill_(0.25)
        layer.weight_diff.normal_()
        layer.pre_context.bias.fill_(0.5)
        layer.post_context.bias.fill_(-2.0)
        found = layer(x)
    wide = functional.conv2d(x + 0.5, plain.weight + layer.weight_diff, padding=6, dilation=6)
    torch.testing.assert_close(found, 0.25 * plain(x + 0.5) + 0.75 * wide - 2)


def test_the_kernel_is_standardised() -> None:
    _, layer = switchable()
    before = layer.kernel().detach()
    with torch.no_grad():
        layer.weight.mul_(3).add_(1)
    torch.testing.assert_close(layer.kernel().detach(), before)


class Moved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return deformable_conv(x, x[:, :1].expand(-1, 18, -1, -1), x.new_ones(2, 3, 3, 3), padding=(1, 1))


@pytest.mark.slow
def test_a_program_takes_images_of_any_size(tmp_path: Path) -> None:
    any_size = torch.export.Dim.DYNAMIC(min=1, max=64)
    axes = {0: any_size, 2: any_size, 3: any_size}
    program = torch.export.export(Moved(), (torch.randn(2, 3, 8, 10),), dynamic_shapes=(axes,))
    torch.export.save(program, tmp_path / "moved.pt2")
    x = torch.randn(3, 3, 13, 7)
    torch.testing.assert_close(torch.export.load(tmp_path / "moved.pt2").module()(x), Moved()(x))

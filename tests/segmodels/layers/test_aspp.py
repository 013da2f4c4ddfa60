"""Pooling over scales: both forms of ASPP, the classic SPP, the feature pyramid's sums."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.layers.aspp import ASPP, AtrousClassifier, ImagePooling, SummedASPP, rates_at
from segmodels.layers.fpn import FPN
from segmodels.layers.spp import SpatialPyramidPooling


def randomise(module: nn.Module) -> nn.Module:
    """Random weights and statistics, so that no two layers can be mistaken for each other."""
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand_like(tensor) if tensor.dim() == 1 else 0.1 * torch.randn_like(tensor))
    return module.eval()


def copy_in_order(target: nn.Module, source: nn.Module) -> None:
    ours, theirs = target.state_dict(), list(source.state_dict().values())
    assert len(ours) == len(theirs)
    target.load_state_dict(dict(zip(ours, theirs, strict=True)))


@pytest.mark.parametrize("size", [(16, 16), (13, 21)])
def test_concatenating_form_computes_what_transformers_does_with_the_same_weights(size):
    from transformers import MobileViTConfig  # takes two seconds, which other tests' processes need not spend
    from transformers.models.mobilevit.modeling_mobilevit import MobileViTASPP

    config = MobileViTConfig(neck_hidden_sizes=[8, 8, 8, 8, 8, 24, 8], aspp_out_channels=16, atrous_rates=[6, 12, 18])
    reference = randomise(MobileViTASPP(config))
    ours = ASPP(24, 16).eval()
    copy_in_order(ours, reference)
    x = torch.randn(2, 24, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), atol=1e-5, rtol=1e-5)


def test_pooled_branch_may_come_first_and_only_the_order_of_the_projections_inputs_changes():
    last, first = randomise(ASPP(8, 4)), ASPP(8, 4, pooling_first=True).eval()
    assert [type(branch) is ImagePooling for branch in first.convs] == [True, False, False, False, False]
    for branch, same in zip(first.convs, [last.convs[-1], *last.convs[:-1]], strict=True):
        branch.load_state_dict(same.state_dict())
    first.project.load_state_dict(last.project.state_dict())
    first.project[0].weight.data = last.project[0].weight.data.roll(4, dims=1)
    x = torch.randn(1, 8, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(first(x), last(x))


def test_separable_form_has_depthwise_convolutions_at_the_same_rates():
    branches = ASPP(8, 4, separable=True).convs
    assert [
        [(c.kernel_size[0], c.dilation[0], c.groups) for c in branch if isinstance(c, nn.Conv2d)] for branch in branches
    ] == [
        [(1, 1, 1)],
        *[[(3, rate, 8), (1, 1, 1)] for rate in (6, 12, 18)],
        [(1, 1, 1)],
    ]
    assert [sum(isinstance(layer, nn.ReLU) for layer in branch) for branch in branches] == [1, 2, 2, 2, 1]


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18))])
def test_rates_double_when_the_output_stride_halves(output_stride, rates):
    assert rates_at(output_stride) == rates


def test_concatenating_form_takes_one_image_in_evaluation():
    with torch.no_grad():
        assert ASPP(8, 4).eval()(torch.randn(1, 8, 1, 1)).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("hidden", [None, 5])
def test_summed_form_is_the_sum_of_its_branches_scores(hidden):
    aspp = randomise(SummedASPP(8, 3, hidden=hidden))
    x = torch.randn(2, 8, 30, 27)
    expected = torch.zeros(2, 3, 30, 27)
    for branch, rate in zip(aspp.branches, (6, 12, 18, 24), strict=True):
        if hidden is None:
            expected += F.conv2d(x, branch.weight, branch.bias, padding=rate, dilation=rate)
        else:
            y = F.relu(F.conv2d(x, branch.fc6.weight, branch.fc6.bias, padding=rate, dilation=rate))
            y = F.relu(F.conv2d(y, branch.fc7.weight, branch.fc7.bias))
            expected += F.conv2d(y, branch.fc8.weight, branch.fc8.bias)
    with torch.no_grad():
        torch.testing.assert_close(aspp(x), expected, atol=1e-4, rtol=1e-5)


def test_scores_of_the_summed_form_start_near_zero():
    torch.manual_seed(0)
    for branch in SummedASPP(256, 8).branches:
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert torch.all(branch.bias == 0)


@pytest.mark.parametrize(("kernel_size", "rate"), [(7, 4), (4, 8), (3, 12)])
def test_all_forms_of_deeplab_v1s_classifier_see_25_cells(kernel_size, rate):
    """The paper's table 2 gives its three forms the same field of view, 224 pixels at output stride 8."""
    head = AtrousClassifier(1, 2, kernel_size, rate, 4).eval()
    nn.init.ones_(head.fc6.weight)
    nn.init.ones_(head.fc7.weight)
    x = torch.ones(1, 1, 41, 41, requires_grad=True)
    head(x)[0, 0, 20, 20].backward()
    rows = x.grad[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert rows.tolist() == list(range(8, 33, rate))


@pytest.mark.parametrize("size", [(13, 13), (24, 10), (3, 5), (1, 1)])
def test_spp_gives_21_maxima_per_channel_for_every_size(size):
    x = torch.randn(2, 6, *size)
    vector = SpatialPyramidPooling()(x)
    assert vector.shape == (2, 21 * 6)
    maxima = []
    for cells in (4, 2, 1):
        edges = [
            [(int(np.floor(i * n / cells)), int(np.ceil((i + 1) * n / cells))) for i in range(cells)] for n in size
        ]
        grid = [
            x[:, :, top:bottom, left:right].amax(dim=(2, 3)) for top, bottom in edges[0] for left, right in edges[1]
        ]
        maxima.append(torch.stack(grid, dim=2).flatten(1))
    assert torch.equal(vector, torch.cat(maxima, dim=1))


def test_feature_pyramid_adds_coarse_maps_to_finer_ones():
    fpn = randomise(FPN((3, 4, 5), channels=6))
    fine, middle, coarse = (
        torch.randn(1, width, *size) for width, size in zip((3, 4, 5), ((12, 10), (6, 5), (3, 3)), strict=True)
    )
    lateral = [
        F.conv2d(x, layer.weight, layer.bias) for x, layer in zip((fine, middle, coarse), fpn.laterals, strict=True)
    ]
    sum_middle = (
        lateral[1] + lateral[2][:, :, [0, 0, 1, 1, 2, 2]][:, :, :, [0, 0, 1, 1, 2]]
    )  # nearest: cell i of 5 lies on cell floor(3 i / 5) of 3
    sum_fine = lateral[0] + sum_middle.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        got = fpn([fine, middle, coarse])
    for x, expected, layer in zip(got, (sum_fine, sum_middle, lateral[2]), fpn.outputs, strict=True):
        torch.testing.assert_close(x, F.conv2d(expected, layer.weight, layer.bias, padding=1), atol=1e-5, rtol=1e-5)

"""PSPNet: the counts of published forms, its pyramid pooling, its strides and dilations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.layers.pyramid_pooling import PyramidPooling
from segmodels.models.analysis import count_gmac, count_parameters, on_meta


@pytest.mark.parametrize(("num_classes", "parameters", "gmac"), [(19, 48_975_494, 178.32), (150, 49_076_364, 178.60)])
def test_counts_of_mmseg_for_both_data_sets(num_classes, parameters, gmac):
    model, images = on_meta("pspnet_r50_d8", num_classes)
    assert count_parameters(model) == parameters
    assert round(count_gmac(model, images), 2) == gmac


def test_body_works_at_stride_8_with_contracted_dilations():
    model, images = on_meta("pspnet_r50_d8", size=(128, 96))
    assert model.encoder(images)[-1].shape == (1, 2048, 16, 12)
    dilations = [[block.conv2.dilation[0] for block in layer] for layer in (model.encoder.layer3, model.encoder.layer4)]
    assert dilations == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]


def test_branches_average_the_cells_of_their_grids():
    """Each branch passes its averages on, the last convolution passes all on: the output is the map itself and the
    means of 1, 4, 9 and 36 cells.
    """
    pooling = PyramidPooling(1, 1).eval()
    for stage in pooling.stages:
        nn.init.ones_(stage[1].conv.weight)
    nn.init.zeros_(pooling.bottleneck.conv.weight)
    x = 1 + torch.rand(1, 1, 12, 18)  # positive, so that ReLU changes nothing
    expected = [x]
    for size in (1, 2, 3, 6):
        means = x.reshape(1, 1, size, 12 // size, size, 18 // size).mean(dim=(3, 5))
        expected.append(F.interpolate(means, (12, 18), mode="bilinear", align_corners=False))
    for branch, values in enumerate(expected):
        with torch.no_grad():
            pooling.bottleneck.conv.weight.zero_()
            pooling.bottleneck.conv.weight[0, branch, 1, 1] = 1
            torch.testing.assert_close(pooling(x), values, rtol=1e-4, atol=1e-4)  # batch norms have an epsilon


def test_maps_smaller_than_the_finest_grid_are_taken():
    with torch.no_grad():
        assert PyramidPooling(4, 4).eval()(torch.randn(1, 4, 3, 2)).shape == (1, 4, 3, 2)

"""RefineNet: the parts of a block against plain formulas, the cascade from coarse to fine."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segmodels.encoders.base import Encoder
from segmodels.models.refinenet import ChainedResidualPooling, RefineBlock, RefineNet, ResidualConvUnit
from segmodels.models.registry import create_model


def test_residual_unit_is_the_papers_formula_and_keeps_its_input():
    unit = ResidualConvUnit(4)
    x = torch.randn(1, 4, 6, 7)
    before = x.clone()
    expected = (
        F.conv2d(
            F.relu(F.conv2d(F.relu(x), unit.conv1.weight, unit.conv1.bias, padding=1)), unit.conv2.weight, padding=1
        )
        + x
    )
    torch.testing.assert_close(unit(x), expected)
    assert torch.equal(x, before)
    assert unit.conv2.bias is None


def test_chained_pooling_adds_every_link_of_the_chain():
    pooling = ChainedResidualPooling(1, poolings=3)
    for conv in pooling.convs:
        nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, 1, 1] = 1
    x = torch.zeros(1, 1, 15, 15)
    x[..., 7, 7] = 1
    with torch.no_grad():
        out = pooling(x)[0, 0]
    # each link widens the spot by two pixels on each side, and all are summed
    distance = (torch.arange(15) - 7).abs()
    radius = torch.maximum(distance[:, None], distance[None])
    expected = sum((radius <= 2 * link).float() for link in range(4))
    torch.testing.assert_close(out, expected)


def test_the_coarse_result_is_interpolated_to_the_finer_map_with_aligned_corners():
    torch.manual_seed(0)
    block = RefineBlock(8, 4, coarse_channels=6)
    block.pool, block.refine = nn.Identity(), nn.Identity()
    nn.init.zeros_(block.reduce.weight)
    nn.init.zeros_(block.adapt[0].conv1.bias)
    nn.init.zeros_(block.adapt[1].conv1.bias)
    coarse = torch.randn(1, 6, 3, 4)
    with torch.no_grad():
        got = block(torch.randn(1, 8, 7, 9), coarse)
        expected = F.interpolate(block.fuse_coarse(coarse), (7, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(got, expected)


class Maps(Encoder):
    """An encoder that gives the maps it was given."""

    in_channels, channels, strides = 3, (4, 8, 8, 8, 8), (2, 4, 8, 16, 32)

    def __init__(self, maps: list[torch.Tensor]) -> None:
        super().__init__()
        self.given = maps

    def forward(self, _images: torch.Tensor) -> list[torch.Tensor]:
        return self.given


@pytest.mark.parametrize("changed", [1, 2, 3, 4])
def test_a_map_reaches_its_own_block_and_the_finer_ones_only(changed):
    torch.manual_seed(0)
    maps = [
        torch.randn(1, channels, 64 // stride, 64 // stride)
        for channels, stride in zip((4, 8, 8, 8, 8), (2, 4, 8, 16, 32), strict=True)
    ]
    encoder = Maps(maps)
    model = RefineNet(encoder, 2).eval()
    outputs: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        model(images)
        encoder.given = [torch.zeros_like(features) if i == changed else features for i, features in enumerate(maps)]
        model(images)
    same = [torch.equal(before, after) for before, after in zip(outputs[:4], outputs[4:], strict=True)]
    assert same == [4 - step > changed for step in range(4)]  # blocks run from the coarsest map, 4, to the finest, 1


def test_the_decoder_has_512_channels_in_the_coarsest_block_256_elsewhere_and_no_batch_norm():
    with torch.device("meta"):
        model = create_model("refinenet_resnet101", 21)
    assert [block.reduce.out_channels for block in model.blocks] == [512, 256, 256, 256]
    assert [block.reduce.in_channels for block in model.blocks] == [2048, 1024, 512, 256]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.blocks.modules())
    assert model.classifier.kernel_size == (3, 3)


def test_dropout_comes_before_the_classes_too():
    torch.manual_seed(0)
    model = create_model("refinenet_resnet101", 2, encoder="resnet18").train()
    shapes = []
    model.dropout.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    model(torch.randn(2, 3, 64, 64))
    assert shapes == [(512, 2, 2), (256, 4, 4), (256, 16, 16)]

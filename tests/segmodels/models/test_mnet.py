import pytest
import torch
from skip_wiring import unchanged_without_skip
from torch.nn import functional

from segmodels.models.mnet import MNet
from segmodels.models.registry import create_model

WIDTHS = [2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_left_leg_joins_pooled_copies_of_the_first_map_at_every_scale() -> None:
    model = MNet(2, 3, WIDTHS).eval()
    seen: dict[str, torch.Tensor] = {}
    model.converter.register_forward_hook(lambda _module, _inputs, output: seen.__setitem__("map", output))
    for level, stage in enumerate(model.encoder):
        stage.register_forward_pre_hook(lambda _module, inputs, level=level: seen.__setitem__(f"in{level}", inputs[0]))
        stage.register_forward_hook(
            lambda _module, _inputs, output, level=level: seen.__setitem__(f"out{level}", output)
        )
    model(torch.randn(1, 3, 32, 48))
    assert torch.equal(seen["in0"], seen["map"])
    for level in range(1, 5):
        above, left = functional.max_pool2d(seen[f"out{level - 1}"], 2), functional.max_pool2d(seen["map"], 2**level)
        assert torch.equal(seen[f"in{level}"], torch.cat([above, left], dim=1))


def test_right_leg_is_one_convolution_over_all_enlarged_decoder_maps() -> None:
    model = MNet(3, 3, WIDTHS).eval()
    maps: list[torch.Tensor] = []
    for block in model.decoder:
        block.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    logits = model(torch.randn(2, 3, 32, 48)).logits
    joined = torch.cat([functional.interpolate(features, (32, 48), mode="bilinear") for features in maps], dim=1)
    weight = torch.cat([head.weight for head in model.heads], dim=1)
    torch.testing.assert_close(logits, functional.conv2d(joined, weight, model.heads[-1].bias))
    assert weight.shape == (3, 5 + 4 + 3 + 2, 1, 1)
    assert [head.bias is None for head in model.heads] == [True, True, True, False]


def test_slices_as_channels_equal_the_papers_convolution_over_a_stack() -> None:
    model = MNet(2, 5, WIDTHS)
    stack = torch.randn(2, 1, 5, 24, 24)  # 2n + 1 = 5 slices of one channel
    convolution = model.converter.conv
    flat = functional.conv3d(stack, convolution.weight.unsqueeze(1), padding=(0, 3, 3)).squeeze(2)
    torch.testing.assert_close(convolution(stack.squeeze(1)), flat)


@pytest.mark.parametrize("level", range(4))
def test_each_skip_feeds_its_own_decoder_level_only(level: int) -> None:
    assert unchanged_without_skip(MNet(2, 3, WIDTHS).eval(), level) == [i < 3 - level for i in range(4)]


@pytest.mark.parametrize("size", [(5, 37), (64, 48)])
def test_any_size(size: tuple[int, int]) -> None:
    assert create_model("mnet", 4, widths=WIDTHS).eval()(torch.randn(2, 3, *size)).logits.shape == (2, 4, *size)

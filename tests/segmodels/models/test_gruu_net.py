import pytest
import torch
from torch.nn import functional

from segmodels.errors import InputError
from segmodels.models.gruu_net import ConvGRU, FullResolutionDenseUnit, GRUUNet
from segmodels.models.registry import create_model

WIDTHS = [4, 5, 6, 7, 8, 7, 6, 5, 4]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_recurrent_unit_follows_its_equations() -> None:
    unit = ConvGRU(3, 2)
    features, state = torch.randn(1, 3, 5, 6), torch.randn(1, 2, 5, 6)
    w_z, w_r, w_c = unit.input.weight.split(2)
    b_z, b_r, b_c = unit.input.bias.split(2)
    u_z, u_r = unit.gates.weight.split(2)
    z = torch.sigmoid(functional.conv2d(features, w_z, b_z, padding=1) + functional.conv2d(state, u_z, padding=1))
    r = torch.sigmoid(functional.conv2d(features, w_r, b_r, padding=1) + functional.conv2d(state, u_r, padding=1))
    candidate = functional.conv2d(features, w_c, b_c, padding=1) + functional.conv2d(
        r * state, unit.candidate.weight, padding=1
    )
    candidate = torch.where(candidate > 0, candidate, 0.2 * candidate)
    torch.testing.assert_close(unit(features, state), z * state + (1 - z) * candidate)


def test_nine_steps_go_down_to_a_32nd_and_back_with_the_state_at_full_resolution() -> None:
    model = GRUUNet(2, 3, WIDTHS, state_channels=3).eval()
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for unit in model.units:
        unit.register_forward_hook(
            lambda _module, _inputs, output: shapes.append((tuple(output[0].shape[1:]), tuple(output[1].shape[1:])))
        )
    model(torch.randn(1, 3, 64, 96))
    assert [64 // size[1] for _, size in shapes] == [2, 4, 8, 16, 32, 16, 8, 4, 2]
    assert [size[0] for _, size in shapes] == WIDTHS
    assert {size for size, _ in shapes} == {(3, 64, 96)}


def test_each_step_reads_the_pooled_state_and_the_resampled_map_of_the_step_before() -> None:
    model = GRUUNet(2, 3, WIDTHS, state_channels=3).eval()
    fused: list[torch.Tensor] = []
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.stem.register_forward_hook(lambda _module, _inputs, output: outputs.append((output, output)))
    for unit in model.units:
        unit.fuse.register_forward_pre_hook(lambda _module, inputs: fused.append(inputs[0]))
        unit.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(torch.randn(1, 3, 64, 64))
    for step, factor in enumerate([2, 4, 8, 16, 32, 16, 8, 4, 2]):
        state, features = outputs[step]
        resampled = (
            functional.max_pool2d(features, 2)
            if step < 5
            else functional.interpolate(features, scale_factor=2, mode="bilinear")
        )
        torch.testing.assert_close(fused[step], torch.cat([functional.max_pool2d(state, factor), resampled], dim=1))


def test_a_unit_whose_gate_keeps_everything_passes_the_state_on() -> None:
    unit = FullResolutionDenseUnit(4, 5, 3).eval()
    with torch.no_grad():
        unit.recurrence.input.bias[:3] = 1e4
    state = torch.randn(2, 3, 16, 16)
    kept, features = unit(state, torch.randn(2, 4, 4, 4), 4)
    assert torch.equal(kept, state)
    assert features.shape == (2, 5, 4, 4)


def test_dense_layers_see_all_maps_before_them() -> None:
    unit = FullResolutionDenseUnit(4, 5, 3)
    assert [layer[0].num_features for layer in unit.dense] == [5, 5 + 32, 5 + 64]
    assert unit.transition[0].num_features == 5 + 96


@pytest.mark.parametrize("size", [(5, 37), (64, 33)])
def test_any_size(size: tuple[int, int]) -> None:
    assert create_model("gruu_net", 4, widths=WIDTHS).eval()(torch.randn(2, 3, *size)).logits.shape == (2, 4, *size)


@pytest.mark.parametrize("widths", [[], [4, 5], [4, 0, 4]])
def test_widths_that_make_no_network_are_refused(widths: list[int]) -> None:
    with pytest.raises(InputError, match="widths"):
        create_model("gruu_net", 2, widths=widths)

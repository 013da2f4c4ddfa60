import pytest
import torch

from segmodels.errors import InputError
from segmodels.models.attention_unet import AttentionGate, AttentionUNet, AttentionUNetOriginal, GridAttentionGate
from segmodels.models.registry import create_model

WIDTHS = [4, 6, 8, 10, 12]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_popular_form_has_the_count_that_everybody_quotes() -> None:
    with torch.device("meta"):
        assert count(AttentionUNet(1, 3)) == 34_878_573


def test_gates_add_the_papers_convolutions_to_the_unet() -> None:
    """Gates at three scales: W_x 2^3 without bias, W_g and psi 1^3 with bias; and the 1^3 convolution of the coarsest
    gating signal with its normalisation.
    """
    with torch.device("meta"):
        model = AttentionUNetOriginal(2, 1, spatial_dims=3)
    expected = sum(8 * x * x + (g * x + x) + (x + 1) for g, x in [(256, 128), (128, 64), (64, 32)])
    assert count(model.gates) == expected
    assert count(model.gating) == 256 * 256 + 3 * 256


def test_gate_equals_monai_with_its_weights() -> None:
    blocks = pytest.importorskip("monai.networks.nets.attentionunet")
    theirs = blocks.AttentionBlock(spatial_dims=2, f_int=3, f_g=4, f_l=5)
    ours = AttentionGate(gate_channels=4, skip_channels=5, inner_channels=3)
    renames = {
        "W_g.0.conv": "gate.conv",
        "W_g.1": "gate.norm",
        "W_x.0.conv": "skip.conv",
        "W_x.1": "skip.norm",
        "psi.0.conv": "psi.conv",
        "psi.1": "psi.norm",
    }
    weights = {}
    for name, tensor in theirs.state_dict().items():
        prefix, _, last = name.rpartition(".")
        weights[f"{renames[prefix]}.{last}"] = tensor
    ours.load_state_dict(weights)
    gate, skip = torch.randn(2, 4, 6, 7), torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(ours(gate, skip), theirs(g=gate, x=skip))


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_is_one_number_in_0_to_1_per_place_and_interpolated_from_the_coarse_grid(dims: int) -> None:
    gate = GridAttentionGate(6, 4, dims)
    coarse, fine = torch.randn(2, 6, *[3] * dims), torch.randn(2, 4, *[6] * dims)
    alpha = gate.coefficients(coarse, fine)
    assert alpha.shape == (2, 1, *[6] * dims)
    assert ((alpha > 0) & (alpha < 1)).all()
    with torch.no_grad():
        for parameter in gate.psi.parameters():
            parameter.zero_()
    torch.testing.assert_close(gate(coarse, fine), fine / 2)  # one sigmoid, of zero


@pytest.mark.parametrize("level", range(3))
def test_closed_gate_cuts_exactly_its_own_skip(level: int) -> None:
    """With alpha at zero the encoder's map of that level no longer matters to the decoder's convolutions there; with
    alpha at one it passes unchanged.
    """
    model = AttentionUNetOriginal(2, 3, WIDTHS).eval()
    images = torch.randn(1, 3, 32, 32)
    seen: list[torch.Tensor] = []
    for convs in model.decoder:
        convs.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    encoder_maps: list[torch.Tensor] = []
    for stage in model.encoder:
        stage.register_forward_hook(lambda _module, _inputs, output: encoder_maps.append(output))
    skip = WIDTHS[3 - level]
    for bias, factor in ((-1e4, 0.0), (1e4, 1.0)):
        with torch.no_grad():
            model.gates[level].psi.bias.fill_(bias)
        seen.clear()
        encoder_maps.clear()
        model(images)
        torch.testing.assert_close(seen[level][:, :skip], factor * encoder_maps[3 - level])


def test_finest_skip_is_not_gated_in_the_papers_form_and_all_are_in_the_popular_one() -> None:
    assert len(AttentionUNetOriginal(2, 3, WIDTHS).gates) == 3
    assert sum(isinstance(m, AttentionGate) for m in AttentionUNet(2, 3, WIDTHS).modules()) == 4


def test_coarser_decoder_levels_gate_the_finer_ones() -> None:
    model = AttentionUNetOriginal(2, 3, WIDTHS)
    shapes: list[tuple[int, int]] = []
    for gate in model.gates:
        gate.register_forward_pre_hook(lambda _module, inputs: shapes.append((inputs[0].shape[1], inputs[0].shape[-1])))
    model(torch.randn(2, 3, 64, 64))
    assert shapes == [(12, 4), (10, 8), (8, 16)]


@pytest.mark.parametrize("dims", [2, 3])
def test_deep_supervision_has_one_output_per_coarser_level_at_input_size(dims: int) -> None:
    size = (19, 33, 17)[-dims:]
    model = AttentionUNetOriginal(3, 1, WIDTHS, spatial_dims=dims)
    prediction = model(torch.randn(2, 1, *size))
    assert [a.shape for a in (prediction.logits, *prediction.auxiliary)] == [(2, 3, *size)] * 4
    assert model.eval()(torch.randn(1, 1, *size)).auxiliary == ()
    assert AttentionUNetOriginal(3, 1, WIDTHS, dims, auxiliary=False)(torch.randn(2, 1, *size)).auxiliary == ()


def test_other_than_two_or_three_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="spatial_dims is 1"):
        create_model("attention_unet_original", 2, spatial_dims=1)

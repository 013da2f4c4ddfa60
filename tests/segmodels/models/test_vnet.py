import pytest
import torch
from skip_wiring import unchanged_without_skip
from torch import nn

from segmodels.errors import InputError
from segmodels.models.registry import create_model
from segmodels.models.vnet import VNet

WIDTHS = [1, 2, 3, 4, 5]
PAPER_FIELDS = [5, 22, 72, 172, 372, 476, 528, 546, 551]  # table 1


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def stages(model: VNet) -> list[nn.Module]:
    return [*model.encoder, *model.decoder]


def test_paper_form_has_the_specified_convolution_weights() -> None:
    with torch.device("meta"):
        model = VNet(2, 1, spatial_dims=3)
    activations = sum(p.numel() for m in model.modules() if isinstance(m, nn.PReLU) for p in m.parameters())
    assert sum(p.numel() for p in model.parameters()) - activations == 65_171_858
    assert not any("Norm" in type(m).__name__ for m in model.modules())


def test_theoretical_receptive_fields_are_those_of_the_paper() -> None:
    """From kernels and strides in the order of execution, an up-convolution counted as a kernel of 2 on the
    finer grid.
    """
    model = VNet(2, 1, WIDTHS, spatial_dims=3).eval()
    field, stride = 1, 1
    fields = []

    def grow(module: nn.Module, _inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        nonlocal field, stride
        if isinstance(module, nn.ConvTranspose3d):
            stride //= module.stride[0]
            field += (module.kernel_size[0] - 1) * stride
        elif isinstance(module, nn.Conv3d):
            field += (module.kernel_size[0] - 1) * stride
            stride *= module.stride[0]

    for module in model.modules():
        module.register_forward_hook(grow)
    for stage in stages(model):
        stage.register_forward_hook(lambda *_: fields.append(field))
    model(torch.zeros(1, 1, 16, 16, 16))
    assert fields == PAPER_FIELDS
    assert stride == 1


def extent(stages: list[tuple[str, int]], first: int, last: int) -> int:
    """Input rows that reach the rows first..last of an output, through stages from the last to the first; of each what
    resamples in front, convolutions.
    """
    for kind, convolutions in stages:
        first, last = first - 2 * convolutions, last + 2 * convolutions
        if kind == "down":
            first, last = 2 * first, 2 * last + 1
        elif kind == "up":
            first, last = first // 2, last // 2
    return last - first + 1


def test_receptive_fields_by_gradient() -> None:
    """The encoder's are the paper's to the pixel. A row of the decoder sees the whole rows of the coarser grid it lies
    on, which the formula counts by half.
    """
    model = VNet(2, 1, WIDTHS).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.fill_(1 / module.weight[0].numel())  # positive everywhere, so that no paths cancel
    outputs: list[torch.Tensor] = []
    for stage in stages(model):
        stage.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    images = torch.rand(1, 1, 1024, 16, dtype=torch.float64, requires_grad=True)
    model(images)
    down = [("", 1), ("down", 2), ("down", 3), ("down", 3), ("down", 3)]
    up = [("up", 3), ("up", 3), ("up", 2), ("up", 1)]
    for index, output in enumerate(outputs):
        row = output.shape[2] // 2
        (gradient,) = torch.autograd.grad(output[:, :, row].sum(), images, retain_graph=True)
        seen = torch.nonzero(gradient[0, 0].abs().sum(dim=1))
        measured = int(seen.max() - seen.min() + 1)
        assert measured == extent([*down, *up][: index + 1][::-1], row, row)
        if index < 5:
            assert measured == PAPER_FIELDS[index]


@pytest.mark.parametrize("channels", [1, 3, 4, 9])
def test_first_residual_repeats_the_input(channels: int) -> None:
    stage = VNet(2, channels, [8, 9]).encoder[0]
    with torch.no_grad():
        for parameter in stage.convs.parameters():
            parameter.zero_()
        stage.activations[0].weight.fill_(1.0)
    images = torch.randn(2, channels, 5, 6)
    torch.testing.assert_close(stage(images), torch.stack([images[:, k % channels] for k in range(8)], dim=1))


def test_every_stage_adds_its_input_before_its_last_activation() -> None:
    model = VNet(2, 3, WIDTHS).eval()
    for stage in stages(model)[1:]:
        features = torch.randn(1, stage.convs[0].in_channels, 8, 8)
        with torch.no_grad():
            stage.convs[-1].weight.zero_()
            stage.convs[-1].bias.zero_()
        torch.testing.assert_close(stage(features), stage.activations[-1](features))


@pytest.mark.parametrize("level", range(4))
def test_each_skip_feeds_its_own_decoder_level_only(level: int) -> None:
    assert unchanged_without_skip(VNet(2, 3, WIDTHS).eval(), level, WIDTHS[level]) == [i < 3 - level for i in range(4)]


@pytest.mark.parametrize("size", [(17, 33), (16, 16), (5, 9, 18)])
def test_images_and_volumes_of_any_size(size: tuple[int, ...]) -> None:
    model = create_model("vnet", 3, in_channels=2, widths=[2, 3, 4, 5, 6], spatial_dims=len(size))
    prediction = model(torch.randn(2, 2, *size))
    assert prediction.logits.shape == (2, 3, *size)
    prediction.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_images_for_a_network_of_volumes_are_refused() -> None:
    with pytest.raises(InputError, match="D, H, W"):
        create_model("vnet", 2, widths=WIDTHS, spatial_dims=3)(torch.zeros(1, 3, 32, 32))

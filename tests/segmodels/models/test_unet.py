import pytest
import torch
from skip_wiring import unchanged_without_skip
from torch.nn import functional

from segmodels.errors import InputError
from segmodels.models.registry import create_model
from segmodels.models.unet import UNetOriginal

WIDTHS = [2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def parameters(name: str, num_classes: int, in_channels: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, num_classes, in_channels=in_channels).parameters())


@pytest.mark.parametrize(
    ("classes", "channels", "expected"), [(2, 1, 31_030_658), (2, 3, 31_031_810), (21, 3, 31_033_045)]
)
def test_original_has_the_papers_parameter_count(classes: int, channels: int, expected: int) -> None:
    assert parameters("unet_original", classes, channels) == expected


def test_padded_form_has_the_reference_parameter_count() -> None:
    assert parameters("unet", 21, 3) == 31_038_933


def test_original_has_23_convolutions() -> None:
    with torch.device("meta"):
        model = create_model("unet_original", 2)
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for m in model.modules()) == 23


def test_original_maps_572_to_388() -> None:
    with torch.device("meta"):
        model = UNetOriginal(2, 1)
        assert model.forward_valid(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
        assert model(torch.empty(1, 1, 388, 388)).logits.shape == (1, 2, 388, 388)


@pytest.mark.parametrize("size", [571, 172, 173, 184])
def test_valid_form_names_a_size_it_can_take(size: int) -> None:
    model = UNetOriginal(2, 1, WIDTHS)
    with pytest.raises(InputError, match=f"width is {size}") as caught:
        model.forward_valid(torch.zeros(1, 1, 572, size))
    proposed = int(str(caught.value).rsplit(" ", 1)[1])
    assert model.forward_valid(torch.zeros(1, 1, 188, proposed)).shape[-1] == proposed - 184


def functional_unet(weights: list[torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Figure 1 of the paper written out, from the weights in the order of the drawing."""
    tensors = iter(weights)

    def convolve(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, next(tensors), next(tensors)).relu()

    skips = []
    x = images
    for _ in range(4):
        x = convolve(convolve(x))
        skips.append(x)
        x = functional.max_pool2d(x, 2)
    x = convolve(convolve(x))
    for skip in reversed(skips):
        x = functional.conv_transpose2d(x, next(tensors), next(tensors), stride=2)
        border = (skip.shape[-1] - x.shape[-1]) // 2
        x = torch.cat([skip[:, :, border:-border, border:-border], x], 1)
        x = convolve(convolve(x))
    return functional.conv2d(x, next(tensors), next(tensors))


def test_original_equals_the_figure_of_the_paper() -> None:
    model = UNetOriginal(3, 1, WIDTHS).eval()
    images = torch.randn(1, 1, 204, 204)
    expected = functional_unet(list(model.parameters()), images)
    torch.testing.assert_close(model.forward_valid(images), expected)


def test_mirrored_border_is_the_overlap_tile_strategy() -> None:
    model = UNetOriginal(3, 1, WIDTHS).eval()
    images = torch.randn(1, 1, 100, 116)
    mirrored = functional.pad(images, (92, 92, 92, 92), mode="reflect")
    torch.testing.assert_close(model(images).logits, model.forward_valid(mirrored))


def test_dropout_sits_at_the_two_deepest_encoder_levels() -> None:
    model = UNetOriginal(2, 1, WIDTHS)
    seen: list[torch.Size] = []
    model.dropout.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    model(torch.randn(1, 1, 20, 20))
    assert [shape[1] for shape in seen] == WIDTHS[-2:]


def test_padded_form_equals_monai_with_its_weights() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.BasicUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        features=(4, 4, 8, 16, 32, 4),
        act="relu",
        norm="batch",
        bias=False,
    )
    ours = create_model("unet", 3, widths=[4, 4, 8, 16, 32])
    # both name their layers in the order of the drawing
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(ours(images).logits, theirs(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.eval()(images).logits, theirs.eval()(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 37), (16, 31), (64, 48)])
def test_padded_form_keeps_any_size(size: tuple[int, int]) -> None:
    model = create_model("unet", 11, widths=WIDTHS).eval()
    assert model(torch.randn(2, 3, *size)).logits.shape == (2, 11, *size)


@pytest.mark.parametrize("name", ["unet", "unet_original"])
def test_exported_graph_takes_any_size(name: str) -> None:
    model = create_model(name, 3, widths=[2, 3, 4]).eval()
    auto = torch.export.Dim.AUTO
    graph = torch.export.export(
        model, (torch.randn(2, 3, 33, 47),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    ).module()
    for size in ((32, 48), (36, 52), (17, 100)):
        images = torch.randn(3, 3, *size)
        torch.testing.assert_close(graph(images).logits, model(images).logits)


@pytest.mark.parametrize("name", ["unet", "unet_original"])
def test_images_with_other_channels_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="in_channels"):
        create_model(name, 2, widths=WIDTHS)(torch.zeros(1, 4, 32, 32))


@pytest.mark.parametrize("level", range(4))
def test_each_skip_feeds_its_own_decoder_level_only(level: int) -> None:
    """Zero one skip: the decoder's maps change from that level upwards and not below it."""
    assert unchanged_without_skip(create_model("unet", 2, widths=WIDTHS).eval(), level) == [
        i < 3 - level for i in range(4)
    ]


@pytest.mark.parametrize("widths", [[64], [64, 0]])
def test_widths_that_make_no_network_are_refused(widths: list[int]) -> None:
    with pytest.raises(InputError, match="widths"):
        create_model("unet", 2, widths=widths)

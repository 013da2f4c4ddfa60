import pytest
import torch
from torch.nn import functional

from segmodels.models.analysis import count_gmac, count_parameters
from segmodels.models.registry import create_model
from segmodels.models.unet_3_plus import UNet3Plus, background_where_empty

WIDTHS = [2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"auxiliary": False}, 26_971_777), ({}, 26_989_637), ({"classification_guided": True}, 26_991_687)],
)
def test_binary_forms_have_the_authors_parameter_counts(options: dict[str, bool], expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(UNet3Plus(1, 3, **options)) == expected


def test_work_equals_the_authors_codes() -> None:
    with torch.device("meta"):
        assert round(count_gmac(UNet3Plus(1, 3), torch.empty(1, 3, 256, 256)), 2) == 197.65


def test_every_decoder_level_takes_all_five_scales() -> None:
    """Against section 2.1: max-pooled finer encoder maps, the same level's, bilinearly enlarged deeper decoder maps and
    the bottom.
    """
    model = UNet3Plus(2, 3, WIDTHS).eval()
    encoder_maps: list[torch.Tensor] = []
    decoder_maps: dict[int, torch.Tensor] = {}
    branch_inputs: dict[tuple[int, int], torch.Tensor] = {}
    branch_outputs: dict[tuple[int, int], torch.Tensor] = {}
    fuse_inputs: dict[int, torch.Tensor] = {}
    for stage in model.encoder:
        stage.register_forward_hook(lambda _module, _inputs, output: encoder_maps.append(output))
    for level, block in zip((3, 2, 1, 0), model.decoder, strict=True):
        block.register_forward_hook(
            lambda _module, _inputs, output, level=level: decoder_maps.__setitem__(level, output)
        )
        block.fuse.register_forward_pre_hook(
            lambda _module, inputs, level=level: fuse_inputs.__setitem__(level, inputs[0])
        )
        for source, branch in enumerate(block.branches):
            branch.register_forward_pre_hook(
                lambda _module, inputs, key=(level, source): branch_inputs.__setitem__(key, inputs[0])
            )
            branch.register_forward_hook(
                lambda _module, _inputs, output, key=(level, source): branch_outputs.__setitem__(key, output)
            )
    model(torch.randn(1, 3, 64, 96))
    decoder_maps[4] = encoder_maps[4]
    assert len(branch_inputs) == 20
    for (level, source), got in branch_inputs.items():
        if source <= level:
            expected = (
                functional.max_pool2d(encoder_maps[source], 2 ** (level - source))
                if source < level
                else encoder_maps[level]
            )
        else:
            expected = functional.interpolate(decoder_maps[source], scale_factor=2 ** (source - level), mode="bilinear")
        torch.testing.assert_close(got, expected)
    for level, got in fuse_inputs.items():
        assert torch.equal(got, torch.cat([branch_outputs[level, source] for source in range(5)], dim=1))


def test_deep_supervision_reads_every_decoder_level_and_the_bottom() -> None:
    model = UNet3Plus(2, 3, WIDTHS).train()
    channels: list[tuple[int, int]] = []
    for head in (model.head, *model.auxiliary_heads):
        head.register_forward_pre_hook(
            lambda _module, inputs: channels.append((inputs[0].shape[1], inputs[0].shape[-1]))
        )
    prediction = model(torch.randn(2, 3, 33, 61))
    assert channels == [(10, 64), (10, 32), (10, 16), (10, 8), (6, 4)]
    assert [a.shape for a in prediction.auxiliary] == [(2, 2, 33, 61)] * 4
    assert model.eval()(torch.randn(1, 3, 33, 61)).auxiliary == ()
    assert UNet3Plus(2, 3, WIDTHS, auxiliary=False)(torch.randn(2, 3, 32, 32)).auxiliary == ()


def test_images_held_for_empty_become_background_and_others_stay() -> None:
    logits = torch.randn(3, 4, 5, 6)
    gated = background_where_empty(logits, torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.7]]))
    assert torch.equal(gated[0], logits[0])
    assert torch.equal(gated[2], logits[2])
    probabilities = gated[1].softmax(0)
    assert torch.equal(probabilities[0], torch.ones(5, 6))
    assert torch.isfinite(background_where_empty(logits.half(), torch.tensor([[1.0, 0.0]] * 3))).all()


def test_module_gates_in_evaluation_and_is_trained_by_its_own_logits() -> None:
    torch.manual_seed(0)
    model = UNet3Plus(3, 3, WIDTHS, classification_guided=True).train()
    images = torch.randn(2, 3, 32, 32)
    prediction = model(images)
    assert "object_presence" in prediction.extras
    assert prediction.extras["object_presence"].shape == (2, 2)
    (prediction.logits.mean() + sum(a.mean() for a in prediction.auxiliary)).backward(retain_graph=True)
    assert all(p.grad is None for p in model.classifier.parameters())
    prediction.extras["object_presence"].logsumexp(1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())

    model.eval()
    with torch.no_grad():
        model.classifier[1].bias.copy_(torch.tensor([1e3, -1e3]))
    assert (model(images).logits.argmax(1) == 0).all()
    with torch.no_grad():
        model.classifier[1].bias.copy_(torch.tensor([-1e3, 1e3]))
    with_object = model(images).logits
    model.classifier = None
    assert torch.equal(with_object, model(images).logits)


def test_any_size_and_exported_graph() -> None:
    model = create_model("unet_3_plus", 3, widths=[2, 3, 4], classification_guided=True).eval()
    auto = torch.export.Dim.AUTO
    graph = torch.export.export(
        model, (torch.randn(2, 3, 33, 47),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    ).module()
    for size in ((32, 48), (17, 100)):
        images = torch.randn(3, 3, *size)
        torch.testing.assert_close(graph(images).logits, model(images).logits)
        assert model(images).logits.shape == (3, 3, *size)

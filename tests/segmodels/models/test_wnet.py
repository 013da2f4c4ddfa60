import pytest
import torch
from torch import nn

from segmodels.models.registry import create_model, model_entry
from segmodels.models.wnet import WNet

WIDTHS = [2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def modules_of(model: WNet) -> list[nn.Module]:
    return [module for half in (model.encoder, model.decoder) for module in (*half.contracting, *half.expansive)]


def test_18_modules_and_46_convolutions() -> None:
    """As the paper counts: a separable convolution is one, a transposed one too."""
    model = WNet(4, 3, WIDTHS)
    assert len(modules_of(model)) == 18
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    depthwise = [m for m in convolutions if m.groups > 1]
    assert len(convolutions) - len(depthwise) == 46


def test_modules_1_9_10_18_are_plain_and_the_others_depthwise_separable() -> None:
    separable = [
        any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in module) for module in modules_of(WNet(4, 3, WIDTHS))
    ]
    assert [number for number, is_separable in enumerate(separable, start=1) if not is_separable] == [1, 9, 10, 18]
    for module in modules_of(WNet(4, 3, WIDTHS)):
        for depthwise, pointwise in zip(module, list(module)[1:], strict=False):
            if isinstance(depthwise, nn.Conv2d) and depthwise.groups > 1:
                assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
                assert isinstance(pointwise, nn.Conv2d)
                assert pointwise.kernel_size == (1, 1)


def test_count_is_the_specified_12_30_million() -> None:
    assert model_entry("wnet").card.num_classes == 64
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model("wnet", 64).parameters()) == pytest.approx(12.30e6, abs=0.005e6)


def test_images_are_rebuilt_from_the_soft_segments_alone() -> None:
    model = WNet(4, 3, WIDTHS).eval()
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 32, 48)
    logits = model(images).logits
    assert seen == []
    rebuilt = model.reconstruct(images)
    assert rebuilt.shape == images.shape
    torch.testing.assert_close(seen[0], logits.softmax(1))


def test_segments_in_another_order_are_the_same_segments_and_rebuild_the_same_images() -> None:
    model = WNet(4, 3, WIDTHS).eval()
    images = torch.randn(2, 3, 33, 47)
    logits, rebuilt = model(images).logits, model.reconstruct(images)
    model.reorder_segments([2, 0, 3, 1])
    torch.testing.assert_close(model(images).logits, logits[:, [2, 0, 3, 1]])
    torch.testing.assert_close(model.reconstruct(images), rebuilt)


def test_reconstruction_belongs_to_training_and_trains_both_networks_the_segments_only_the_first() -> None:
    model = WNet(4, 3, WIDTHS)
    images = torch.randn(2, 3, 33, 47)
    assert model.eval()(images).extras == {}
    prediction = model.train()(images)
    assert prediction.logits.shape == (2, 4, 33, 47)
    assert prediction.extras["reconstruction"].shape == images.shape
    prediction.logits.square().mean().backward(retain_graph=True)
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())
    model.zero_grad()
    (prediction.extras["reconstruction"] - images).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_learns_to_rebuild_one_image() -> None:
    torch.manual_seed(0)
    model = WNet(8, 3, [8, 12, 16], dropout=0.0)
    images = torch.zeros(2, 3, 16, 16)
    images[0, 0, :, :8], images[0, 1, :8], images[1, 2, 8:], images[1, 0, 4:12, 4:12] = 1.0, 1.0, 1.0, 1.0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(images).extras["reconstruction"] - images).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * images.var().item()

import pytest
import torch
from torch import nn
from torch.nn import functional

from segmodels.errors import InputError
from segmodels.models.analysis import count_gmac, count_parameters
from segmodels.models.registry import create_model
from segmodels.models.ynet import YNet, _EfficientSpatialPyramid, _PyramidPooling


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def unused_branches(model: YNet) -> int:
    """Weights of the convolution of dilation 16 that each ESP block of the authors' code owns, and does not run."""
    return sum(9 * m.reduce.out_channels**2 for m in model.modules() if isinstance(m, _EfficientSpatialPyramid))


@pytest.mark.parametrize(("image_classes", "expected"), [(0, 2_958_240), (5, 3_913_381)])
def test_counts_are_the_authors_codes(image_classes: int, expected: int) -> None:
    with torch.device("meta"):
        model = YNet(8, image_classes=image_classes)
    assert count_parameters(model) + unused_branches(model) == expected


def test_work_is_the_authors_codes() -> None:
    with torch.device("meta"):
        assert round(count_gmac(YNet(8), torch.empty(1, 3, 384, 384)), 2) == 8.24


def test_pyramid_grids_at_384_are_the_authors_codes() -> None:
    with torch.device("meta"):
        model = YNet(8, image_classes=0).eval()
        grids: list[int] = []
        for module in model.modules():
            for branch in module.branches if isinstance(module, _PyramidPooling) else ():
                branch.register_forward_pre_hook(lambda _module, inputs: grids.append(inputs[0].shape[-1]))
        model(torch.empty(1, 3, 384, 384))
    assert grids == [40, 32, 24, 18, 80, 64, 48, 36, 160, 128, 96, 72]


def test_pyramid_pooling_keeps_the_map_and_adds_its_averages() -> None:
    pooling = _PyramidPooling(3, 2).eval()
    features = torch.randn(2, 3, 24, 24)
    joined = pooling(features)
    assert torch.equal(joined[:, :3], features)
    expected = functional.interpolate(
        pooling.branches[2](functional.avg_pool2d(features, 2)), (24, 24), mode="bilinear"
    )
    torch.testing.assert_close(joined[:, 7:9], expected)


def test_spatial_pyramid_sees_19_pixels() -> None:
    """Dilation 8 reaches 8 pixels to each side, the 3x3 reduction one more."""
    block = _EfficientSpatialPyramid(8).double()
    with torch.no_grad():
        for convolution in (block.reduce, *block.dilated):
            convolution.weight.fill_(0.1)  # positive, so that no ReLU hides a path
    features = torch.rand(1, 8, 41, 41, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block.eval()(features)[0, :, 20, 20].sum(), features)
    seen = torch.nonzero(gradient[0].abs().sum(dim=0))
    assert int(seen[:, 0].max() - seen[:, 0].min() + 1) == 19


def test_classification_branch_hangs_on_the_bottleneck_and_not_on_the_decoder() -> None:
    torch.manual_seed(0)
    model = YNet(4, image_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    before = model(images)
    assert before.extras["image_label"].shape == (2, 3)
    seen: list[tuple[int, ...]] = []
    model.classifier.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape)))
    for decoder in (model.decoder1, model.decoder2, model.decoder3):
        decoder.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    after = model(images)
    assert seen == [(2, 512, 8, 8)]
    assert torch.equal(before.extras["image_label"], after.extras["image_label"])
    assert not torch.equal(before.logits, after.logits)


def test_stage_one_weights_load_into_the_joint_network() -> None:
    first, joint = YNet(4, image_classes=0).eval(), YNet(4, image_classes=3).eval()
    missing, unexpected = joint.load_state_dict(first.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith("classifier.") for name in missing)
    images = torch.randn(1, 3, 40, 56)
    assert torch.equal(first(images).logits, joint(images).logits)
    assert first(images).extras == {}


@pytest.mark.parametrize("size", [(9, 33), (64, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    prediction = YNet(4, 2, block="residual").eval()(torch.randn(2, 2, *size))
    assert prediction.logits.shape == (2, 4, *size)


def test_both_outputs_train_the_encoder() -> None:
    model = YNet(2, image_classes=2)
    prediction = model(torch.randn(2, 3, 32, 32))
    functional.cross_entropy(prediction.extras["image_label"], torch.tensor([0, 1])).backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"level1", "level2", "level3", "classifier"}
    assert isinstance(model.decoder1[-1], nn.Conv2d)


@pytest.mark.parametrize(
    ("options", "message"), [({"block": "dense"}, "dense"), ({"image_classes": 1}, "image_classes is 1")]
)
def test_options_that_make_no_network_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("ynet", 2, **options)


def test_batch_norms_have_the_momentum_and_epsilon_of_the_authors_code() -> None:
    with torch.device("meta"):
        norms = {(layer.momentum, layer.eps) for layer in YNet(8).modules() if isinstance(layer, nn.BatchNorm2d)}
    assert norms == {(0.95, 1e-3)}

"""EncNet: the encoding against its formula, where the presence logits come from, what stays out of evaluation."""

import torch

from segmodels.losses import create_loss
from segmodels.models.encnet import Encoding
from segmodels.models.registry import create_model, model_entry


def test_encoding_is_the_sum_of_softly_assigned_residuals():
    torch.manual_seed(0)
    module = Encoding(5, 3)
    x = torch.randn(2, 5, 4, 6)
    with torch.no_grad():
        got = module(x)
    assert got.shape == (2, 3, 5)
    for image, encoded in zip(x.double(), got, strict=True):
        expected = torch.zeros(3, 5, dtype=torch.float64)
        for position in image.flatten(1).T:
            residuals = position - module.codewords.detach().double()
            scores = torch.exp(module.scale.detach().double() * residuals.square().sum(1))
            expected += (scores / scores.sum())[:, None] * residuals
        torch.testing.assert_close(encoded, expected.float(), rtol=1e-4, atol=1e-5)


def test_encoding_does_not_depend_on_where_things_are():
    module = Encoding(5, 3)
    x = torch.randn(1, 5, 4, 6)
    shuffled = x.flatten(2)[..., torch.randperm(24)].unflatten(2, (6, 4))
    torch.testing.assert_close(module(x), module(shuffled))


def test_encoding_stays_in_float32_under_autocast():
    module = Encoding(8, 4)
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        expected = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(x), expected)


def test_the_encoding_weighs_channels_and_leaves_their_signs():
    torch.manual_seed(0)
    module = create_model("encnet_r50_d8", 2, encoder="resnet18").enc_module.eval()
    x = torch.randn(2, 512, 3, 5)
    with torch.no_grad():
        encoded, got = module(x)
        gate = module.fc(encoded)
    assert encoded.shape == (2, 512)
    torch.testing.assert_close(got, x.clamp(min=0) * (1 + gate[..., None, None]))


def test_presence_logits_train_the_encoding_and_only_in_training():
    torch.manual_seed(0)
    model = create_model("encnet_r50_d8", 4, encoder="resnet18").train()
    images, target = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    prediction = model(images)
    assert prediction.extras["presence"].shape == (2, 4)
    create_loss({"presence": 0.2}).terms(prediction, target)["presence"].backward()
    reached = {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {"encoder", "bottleneck", "enc_module", "se_layer"}
    assert not any(parameter.grad is not None for parameter in model.enc_module.fc.parameters()), (
        "the gate weighs the map, not the encoding"
    )
    assert model.eval()(images).extras == {}
    assert create_model("encnet_r50_d8", 4, encoder="resnet18", auxiliary=False).train()(images).extras == {}


def test_the_papers_weight_of_the_presence_loss_comes_with_the_model():
    assert model_entry("encnet_r50_d8").card.losses == {"cross_entropy": 1.0, "presence": 0.2}

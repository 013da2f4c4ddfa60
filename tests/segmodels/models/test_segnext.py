"""SegNeXt: the factorisation in its head against a plain numpy one, repeatable predictions, which stages the head
reads.
"""

import copy

import numpy as np
import pytest
import torch

from segmodels.encoders.base import Encoder
from segmodels.models.analysis import count_parameters, on_meta
from segmodels.models.registry import create_model
from segmodels.models.segnext import MatrixFactorisation, SegNeXt


def numpy_factorisation(x: np.ndarray, bases: np.ndarray, steps: int) -> np.ndarray:
    """Multiplicative updates of one matrix ``(channels, positions)``, coefficients first; they are updated once more at
    the end.
    """
    bases = bases / np.linalg.norm(bases, axis=0)
    scores = x.T @ bases
    coefficients = np.exp(scores - scores.max(axis=1, keepdims=True))
    coefficients /= coefficients.sum(axis=1, keepdims=True)

    def update_coefficients() -> np.ndarray:
        return coefficients * (x.T @ bases) / (coefficients @ bases.T @ bases + 1e-6)

    for _ in range(steps):
        coefficients = update_coefficients()
        bases = bases * (x @ coefficients) / (bases @ coefficients.T @ coefficients + 1e-6)
    return bases @ update_coefficients().T


def test_factorisation_is_that_of_numpy():
    torch.manual_seed(0)
    module = MatrixFactorisation(6, rank=3).eval()
    x = torch.rand(2, 6, 4, 5)
    with torch.no_grad():
        got = module(x)
    for image, result in zip(x.double().numpy(), got.numpy(), strict=True):
        expected = numpy_factorisation(image.reshape(6, 20), module.bases.double().numpy(), steps=7)
        np.testing.assert_allclose(result.reshape(6, 20), expected, rtol=1e-4, atol=1e-5)


def test_features_of_low_rank_are_reconstructed_and_more_steps_come_nearer():
    torch.manual_seed(0)
    low_rank = (torch.rand(1, 8, 4) @ torch.rand(1, 4, 100)).unflatten(2, (10, 10))
    errors = []
    for steps in (0, 1, 7, 100):
        module = MatrixFactorisation(8, rank=16, steps=steps).eval()
        errors.append((module(low_rank) - low_rank).norm().item() / low_rank.norm().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_bases_are_drawn_anew_in_training_and_fixed_in_evaluation():
    module = MatrixFactorisation(8)
    x = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        assert not torch.equal(module.train()(x), module(x))
        assert torch.equal(module.eval()(x), copy.deepcopy(module)(x))
        assert torch.equal(module(x), MatrixFactorisation(8).eval()(x))
    assert not module.state_dict(), "published weights have no bases"


def test_gradient_flows_through_the_last_update_of_the_coefficients_only():
    torch.manual_seed(0)
    module = MatrixFactorisation(3, rank=2, steps=2).eval()
    x = torch.rand(1, 3, 2, 2, dtype=torch.float32, requires_grad=True)
    (module(x) ** 2).sum().backward()

    flat = x.detach().flatten(2)
    with torch.no_grad():
        bases = torch.nn.functional.normalize(module.bases[None], dim=1)
        coefficients = (flat.transpose(1, 2) @ bases).softmax(-1)
        for _ in range(2):
            coefficients = (
                coefficients * (flat.transpose(1, 2) @ bases) / (coefficients @ (bases.transpose(1, 2) @ bases) + 1e-6)
            )
            bases = bases * (flat @ coefficients) / (bases @ (coefficients.transpose(1, 2) @ coefficients) + 1e-6)
    variable = flat.clone().requires_grad_()
    last = coefficients * (variable.transpose(1, 2) @ bases) / (coefficients @ (bases.transpose(1, 2) @ bases) + 1e-6)
    ((bases @ last.transpose(1, 2)) ** 2).sum().backward()
    torch.testing.assert_close(x.grad.flatten(2), variable.grad)


def test_factorisation_stays_in_float32_under_autocast():
    module = MatrixFactorisation(8).eval()
    x = torch.rand(1, 8, 6, 6)
    with torch.no_grad():
        expected = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(x), expected)


@pytest.mark.parametrize(("letter", "head"), [("t", 359_830), ("s", 482_710), ("b", 1_358_486), ("l", 4_289_686)])
def test_heads_have_what_the_reference_has_beyond_its_body(letter, head):
    model, _ = on_meta(f"segnext_{letter}")
    assert count_parameters(model) - count_parameters(model.encoder) == head


def test_the_head_reads_the_last_three_stages_and_not_the_first():
    torch.manual_seed(0)
    maps = [torch.randn(1, 8, 32 // 2**i, 32 // 2**i) for i in range(4)]

    class Maps(Encoder):
        channels, strides = (8, 8, 8, 8), (4, 8, 16, 32)

        def __init__(self) -> None:
            super().__init__()
            self.given = maps

        def forward(self, _images: torch.Tensor) -> list[torch.Tensor]:
            return self.given

    model = SegNeXt(Maps(), 2, 32).eval()
    images = torch.zeros(1, 3, 128, 128)
    with torch.no_grad():
        full = model(images).logits
        for i in range(4):
            model.encoder.given = [
                torch.zeros_like(features) if j == i else features for j, features in enumerate(maps)
            ]
            assert torch.equal(model(images).logits, full) == (i == 0)


def test_another_encoder_takes_the_place_of_mscan():
    model = create_model("segnext_t", 2, encoder="resnet18").eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).logits.shape == (1, 2, 64, 96)

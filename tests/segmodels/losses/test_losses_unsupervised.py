"""The losses of W-Net against a dense graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segmodels.errors import InputError
from segmodels.losses import create_loss
from segmodels.losses.base import Images
from segmodels.losses.normalized_cut import ReconstructionLoss, SoftNormalizedCutLoss
from segmodels.outputs import PixelOutput


def dense_normalized_cut(
    logits: Tensor, image: Tensor, sigma_intensity: float, sigma_distance: float, radius: float
) -> float:
    """K - Σ_k assoc(A_k, A_k) / assoc(A_k, V) with the whole matrix of weights, mean over images."""
    values = []
    places = np.stack(np.meshgrid(*(np.arange(size) for size in image.shape[2:]), indexing="ij"), -1).reshape(
        -1, image.ndim - 2
    )
    for scores, picture in zip(logits.double(), image.double(), strict=True):
        p = scores.softmax(0).flatten(1).numpy()
        features = picture.flatten(1).numpy().T
        distance = ((places[:, None] - places[None]) ** 2).sum(-1)
        difference = ((features[:, None] - features[None]) ** 2).sum(-1)
        w = np.exp(-difference / sigma_intensity**2) * np.exp(-distance / sigma_distance**2) * (distance < radius**2)
        values.append(len(p) - sum((p[k] @ w @ p[k]) / (p[k] @ w.sum(1)) for k in range(len(p))))
    return float(np.mean(values))


def pictures(seed: int, shape: tuple[int, ...], classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, classes, *shape, generator=generator), 30 * torch.rand(2, 3, *shape, generator=generator)


@pytest.mark.parametrize(("shape", "radius"), [((9, 11), 5.0), ((9, 11), 2.5), ((3, 30), 5.0), ((4, 5, 6), 3.0)])
def test_soft_normalized_cut_is_that_of_the_dense_graph(shape: tuple[int, ...], radius: float) -> None:
    logits, image = pictures(0, shape)
    value = SoftNormalizedCutLoss(sigma_intensity=10, sigma_distance=4, radius=radius)(logits, image)
    assert float(value) == pytest.approx(dense_normalized_cut(logits, image, 10, 4, radius), rel=2e-5)


def test_a_cut_along_the_edge_costs_less_than_one_across() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 100
    along, across = torch.full((2, 1, 2, 16, 16), -20.0)
    along[:, 0, :, :8], along[:, 1, :, 8:] = 20, 20
    across[:, 0, :8], across[:, 1, 8:] = 20, 20
    loss = SoftNormalizedCutLoss()
    assert float(loss(along, image)) == pytest.approx(0, abs=1e-5)
    assert float(loss(across, image)) > 0.1


def test_the_gradient_is_the_derivative() -> None:
    logits, image = pictures(1, (4, 5), classes=3)
    assert torch.autograd.gradcheck(
        lambda x: SoftNormalizedCutLoss(radius=3)(x, image.double()), (logits.double().requires_grad_(),)
    )


def test_half_precision_is_computed_in_float32() -> None:
    logits, image = pictures(2, (8, 8))
    logits = (50 * logits.sign()).half().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SoftNormalizedCutLoss()(logits, image.half())
    value.backward()
    assert value == SoftNormalizedCutLoss()(logits.float(), image.half().float())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_reconstruction_is_the_mean_squared_difference() -> None:
    image, reconstruction = torch.rand(2, 3, 5, 6), torch.rand(2, 3, 5, 6)
    assert float(ReconstructionLoss()(reconstruction, image)) == pytest.approx(
        float(((image - reconstruction) ** 2).mean())
    )
    assert ReconstructionLoss()(image, image) == 0
    with pytest.raises(InputError, match="expected"):
        ReconstructionLoss()(reconstruction[:, :, :4], image)


def test_images_of_another_size_are_refused() -> None:
    logits, image = pictures(3, (8, 8))
    with pytest.raises(InputError, match="the image"):
        SoftNormalizedCutLoss()(logits, image[..., :7])


def test_in_a_sum_they_compare_a_prediction_with_the_images_in_the_units_they_need() -> None:
    logits, image = pictures(4, (8, 8))
    images = Images((4 * image).byte(), image / 60)
    rebuilt = torch.randn(2, 3, 8, 8)
    loss = create_loss({"soft_normalized_cut": 1.0, "reconstruction": 0.5, "cross_entropy": 2.0})
    target = logits.argmax(1)
    terms = loss.terms(PixelOutput(logits, extras={"reconstruction": rebuilt}), target, images)
    assert terms["soft_normalized_cut"] == SoftNormalizedCutLoss()(logits, images.raw.float())
    assert terms["reconstruction"] == ReconstructionLoss()(rebuilt, images.normalised)
    assert terms["cross_entropy"] == create_loss({"cross_entropy": 1.0})(logits, target)
    assert list(loss.terms(logits, target, images)) == ["soft_normalized_cut", "cross_entropy"]
    with pytest.raises(InputError, match="loss 'soft_normalized_cut' compares a prediction with the image"):
        loss(logits, target)
